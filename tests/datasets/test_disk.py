"""Folders that no dataset can be written to are found before a build."""

import errno
import os

import pytest

from eomt_jax.datasets import disk, prepare, shapes
from eomt_jax.pipeline import records
from tests.datasets.mask_folders import build, draw


@pytest.fixture
def no_build(monkeypatch):
    """Makes building raise an error."""
    monkeypatch.setattr(shapes, "draw_record", None)


@pytest.mark.parametrize("file", ["data", "data/shapes", "data/shapes/1.0.0"])
def test_file_where_a_folder_should_be_is_found_before_the_build(
    tmp_path, no_build, file
):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    with pytest.raises(
        ValueError, match=f"{path} is no folder, and .* to be made belo"
    ):
        prepare.prepare("shapes", tmp_path / "data")
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == [path]


def test_missing_permission_is_found_before_the_build(tmp_path, no_build, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(
        ValueError, match=f"no permission to write into {tmp_path}: give"
    ):
        prepare.prepare("shapes", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_half_a_dataset_is_found_before_the_build(tmp_path, monkeypatch):
    photographs, masks = draw(2)
    target = tmp_path / "out/mine/1.0.0"
    target.mkdir(parents=True)
    (target / "mine-train.array_record-00000-of-00001").write_text("x")
    with pytest.raises(
        ValueError, match=f"{target} is in the way and no finished data"
    ):
        build(tmp_path, photographs, masks)
    assert len(list(target.iterdir())) == 1
    build(tmp_path, photographs, masks, overwrite=True)
    assert len(records.open_split(tmp_path / "out", "mine", "train")) == 1


def test_full_disk_is_found_before_the_build(tmp_path, monkeypatch):
    photographs, masks = draw(2)
    usage = disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    size = sum(map(len, photographs.values()))
    match = (
        f"the photographs alone take {size / 1000:.0f} kB, and there are 1 kB free in"
    )
    with pytest.raises(ValueError, match=match):
        build(tmp_path, photographs, masks)
    assert [f for f in (tmp_path / "out").rglob("*") if f.is_file()] == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.array_record"),
        RuntimeError(
            "write() failed: No space left on device; writing x.array_record; at byte "
            "3145728; Could not submit chunk: 1600"
        ),
    ],
)
def test_disk_that_fills_on_the_way_ends_in_a_sentence(tmp_path, monkeypatch, error):
    def fill(*_):
        raise error

    monkeypatch.setattr(shapes, "draw_record", fill)
    with pytest.raises(ValueError, match=r"^x.array_record: No space .*: make room"):
        prepare.prepare("shapes", tmp_path)
    assert list(tmp_path.iterdir()) == []
