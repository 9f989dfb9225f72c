import errno
import json

import pytest
from etils import epath

from eomt_jax.training.checkpoints.saving import StorageError
from eomt_jax.training.reporting import run_folder


@pytest.mark.parametrize(
    "name", ["", "checkpoints", "tensorboard", "evaluations", "pictures"]
)
def test_file_where_a_folder_should_be_is_named(tmp_path, name):
    workdir = epath.Path(tmp_path / "run")
    path = workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(ValueError, match=f"{path} is a file, and the run"):
        run_folder.check(workdir)


def test_file_above_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"{tmp_path / 'file'} is a file"):
        run_folder.check(epath.Path(tmp_path / "file" / "deep" / "run"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "model.json"])
def test_folder_where_a_file_should_be_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path / name} is a folder"):
        run_folder.check(epath.Path(tmp_path))


def test_new_and_used_folders_are_fine(tmp_path):
    run_folder.check(epath.Path(tmp_path / "new" / "run"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").write_text("")
    run_folder.check(epath.Path(tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_is_explained_with_the_file(tmp_path, number):
    explained = run_folder.explain_full_disk(epath.Path(tmp_path))
    with pytest.raises(StorageError, match=r"metrics.jsonl could not.*room"), explained:
        raise OSError(number, "too much", str(tmp_path / "metrics.jsonl"))


def test_other_errors_are_left_alone(tmp_path):
    explained = run_folder.explain_full_disk(epath.Path(tmp_path))
    with pytest.raises(PermissionError), explained:
        raise PermissionError(errno.EACCES, "no")


def test_damaged_config_of_the_run_before_is_no_obstacle(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    assert run_folder._read_config(epath.Path(tmp_path / "config.json")) == {}
    (tmp_path / "config.json").write_text(json.dumps({"seed": 1}))
    assert run_folder._read_config(epath.Path(tmp_path / "config.json")) == {"seed": 1}
