import pytest

from eomt_jax.weights.new_folder import check_new, new_folder


def test_folder_is_there_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "a" / "out") as unfinished:
        (unfinished / "file").write_text("text")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "file").read_text() == "text"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


def test_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as unfinished:
        (unfinished / "file").write_text("text")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_empty_folder_may_be_there(tmp_path):
    with new_folder(tmp_path) as unfinished:
        (unfinished / "file").write_text("text")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("name", ["", "file"])
def test_what_is_there_stays(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(ValueError, match="exists already"),
        new_folder(tmp_path / name),
    ):
        pytest.fail("this would have been lost")
    assert (tmp_path / "file").read_text() == "mine"


def test_check_new_refuses_a_path_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="can't be made: .*file is a file"):
        check_new(tmp_path / "file" / "a" / "b")
