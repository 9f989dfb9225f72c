import pathlib

import pytest
from etils import epath

from eomt_jax.cli.photograph_files import find_photographs, output_names


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.JPG",
        "a.png",
        "sub/a.png",
        "sub/deep/c.webp",
        "notes.txt",
        ".x.png",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "photos"


def found(*arguments, out="out"):
    photographs = find_photographs(
        [str(argument) for argument in arguments], leave_out=epath.Path(out)
    )
    return list(photographs.values())


def test_find_photographs_of_a_folder(folder):
    assert found(folder) == ["a", "b", "sub/a", "sub/deep/c"]
    (folder / "loop").symlink_to(folder)
    assert found(folder) == ["a", "b", "sub/a", "sub/deep/c"]


def test_find_photographs_by_patterns(folder):
    assert found(folder / "*") == ["a", "b"]
    assert found(folder / "**/*.png") == ["a", "sub/a"]
    assert found(folder / "s*/a.png") == ["sub/a"]


def test_find_photographs_relative_to_here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert found("*.png") == found("a.png") == ["a"]
    assert found(".") == ["a", "b", "sub/a", "sub/deep/c"]


def test_find_photographs_files_as_they_are_named(folder):
    """A named file need not exist or be a picture; reading it raises the error."""
    assert found(folder / "notes.txt", folder / "missing.jpg") == ["notes", "missing"]
    (folder / "[1].png").write_bytes(b"")
    assert found(folder / "[1].png") == ["[1]"]


def test_find_photographs_leaves_out_what_is_written(folder):
    assert found(folder, out=folder / "sub") == ["a", "b"]
    everything = ["a", "b", "sub/a", "sub/deep/c"]
    assert found(folder, out=folder) == found(folder, out=folder.parent) == everything
    assert found(folder / "sub" / "a.png", out=folder / "sub") == ["a"]


@pytest.mark.parametrize("argument", ["empty", "photos/*.bmp"])
def test_find_photographs_none_is_an_error(folder, tmp_path, argument):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no photograph"):
        found(tmp_path / argument)


@pytest.mark.parametrize(
    ("photographs", "names"),
    [
        (["x/a.jpg"], ["a"]),
        (["x/a.jpg", "x/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "x/a.PNG"], ["a_jpg", "a_png"]),
        (["x/a.jpg", "y/A.jpg"], ["a_jpg", "A_jpg_2"]),
        (["x/a.jpg", "x/a.png", "x/a_jpg.gif"], ["a_jpg", "a_png", "a_jpg_2"]),
    ],
)
def test_output_names_never_clash(photographs, names):
    paths = {epath.Path(p): pathlib.PurePath(p).stem for p in photographs}
    assert list(output_names(paths).values()) == names


def test_output_names_are_short_enough_and_different():
    long = ["x/" + "a" * 249 + "b", "x/" + "a" * 250, "x/" + "\u00e9" * 125, "a" * 235]
    paths = {epath.Path(f"{name}.jpg"): name for name in long}
    paths[epath.Path(f"{long[0]}.png")] = long[0]
    names = list(output_names(paths).values())
    assert len(set(names)) == 5
    assert names[3] == "a" * 235
    assert [name[:3] for name in names[:3]] == ["x/a", "x/a", "x/\u00e9"]
    assert max(len(f"{name}.masks.png".encode()) for name in names) <= 2 + 255
    # Whatever lies beside it, a photograph's result is called the same.
    assert list(output_names({epath.Path("b.jpg"): long[1]}).values()) == [names[1]]


def test_find_photographs_named_twice_is_one(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    both = ["a.jpg", str(tmp_path / "a.jpg"), str(tmp_path)]
    found = find_photographs(both, leave_out=epath.Path(tmp_path / "out"))
    assert list(found.values()) == ["a"]
