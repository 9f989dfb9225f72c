"""prepare.py writes a dataset whole or not at all, and imports no TensorFlow."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from eomt_jax.datasets import prepare, shapes, staging
from eomt_jax.pipeline import records
from tests.datasets import coco_archives
from tests.processes import ROOT, installed_environment

NUM_EXAMPLES = {"train": 6, "validation": 2}


@pytest.fixture
def few_shapes(monkeypatch):
    monkeypatch.setattr(shapes, "NUM_EXAMPLES", NUM_EXAMPLES)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return installed_environment(tmp_path_factory.mktemp("installed"))


def run_python(*arguments, cwd=ROOT, env=None):
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=cwd,
        env=env or {**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_ensure_draws_shapes_once(few_shapes, tmp_path, monkeypatch):
    prepare.ensure("shapes", tmp_path)
    assert records.read_info(tmp_path, "shapes").num_examples == NUM_EXAMPLES
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]

    monkeypatch.setattr(shapes, "draw_record", None)  # drawing again would raise
    prepare.ensure("shapes", tmp_path)


def test_ensure_dataset_from_archives_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"data/prepare\.py coco_panoptic --archives"):
        prepare.ensure("coco_panoptic", tmp_path)


def test_ensure_takes_a_dataset_that_someone_else_prepared(few_shapes, tmp_path):
    prepare.prepare("shapes", tmp_path)
    (tmp_path / "shapes").rename(tmp_path / "mine")
    prepare.ensure("mine", tmp_path)


def test_prepare_unknown_dataset_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match="'coco'; known: .*coco_panoptic"):
        prepare.prepare("coco", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "shapes", "masks": "m"}, "shapes has no option --masks; it has none"),
        (
            {"name": "mine", "builder": "coco_format", "remap": "1=2"},
            "coco_format has no option --remap; it has --images, --annotations",
        ),
        (
            {"name": "mine", "builder": "coco_format", "images": "i"},
            "coco_format needs --annotations; see data/README.md",
        ),
        ({"name": "mine", "builder": "coco"}, "unknown format 'coco'; known: coco_f"),
        ({"name": "my-own", "builder": "mask_folder"}, "--name=my-own is no name"),
        ({"name": "shapes", "builder": "mask_folder"}, "--name=shapes is taken"),
        ({"name": "mask_folder"}, "is a format: name your dataset with --name=NAME"),
    ],
)
def test_prepare_options_that_do_not_fit_are_refused(tmp_path, arguments, match):
    with pytest.raises(ValueError, match=match):
        prepare.prepare(data_dir=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_prepare_error_on_the_way_leaves_nothing(few_shapes, tmp_path, monkeypatch):
    draw = shapes.draw_record

    def fail_at_four(split, index, scene):
        if index == 4:
            raise RuntimeError("disk full")
        return draw(split, index, scene)

    monkeypatch.setattr(shapes, "draw_record", fail_at_four)
    with pytest.raises(RuntimeError, match="disk full"):
        prepare.prepare("shapes", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_prepare_killed_leaves_nothing_finished_and_reruns(few_shapes, tmp_path):
    code = """
import os, signal, sys
from eomt_jax.datasets import prepare, shapes
draw = shapes.draw_record
def draw_or_die(split, index, scene):
    if index == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(split, index, scene)
shapes.draw_record = draw_or_die
prepare.prepare("shapes", sys.argv[1])
"""
    killed = run_python("-c", code, str(tmp_path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".building"]
    assert records.prepared_versions(tmp_path, "shapes") == []

    prepare.prepare("shapes", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert len(records.open_split(tmp_path, "shapes", "train")) == 6


def test_prepare_leaves_running_builds_alone(few_shapes, tmp_path):
    host = os.uname().nodename
    running = tmp_path / ".building" / f"{host}-{os.getppid()}"
    elsewhere = tmp_path / ".building" / "another-machine-1"
    running.mkdir(parents=True)
    elsewhere.mkdir()
    prepare.prepare("shapes", tmp_path)
    assert running.exists()
    assert elsewhere.exists()


def test_prepare_twice_keeps_the_first_unless_told(few_shapes, tmp_path, monkeypatch):
    prepare.prepare("shapes", tmp_path)
    monkeypatch.setattr(shapes, "NUM_EXAMPLES", {"train": 3, "validation": 1})
    assert prepare.prepare("shapes", tmp_path).num_examples == NUM_EXAMPLES
    info = prepare.prepare("shapes", tmp_path, overwrite=True)
    assert info.num_examples == {"train": 3, "validation": 1}


@pytest.mark.parametrize("remote", [False, True])
def test_overwrite_cut_short_leaves_nothing_finished(
    few_shapes, tmp_path, monkeypatch, remote
):
    prepare.prepare("shapes", tmp_path)
    monkeypatch.setattr(staging, "is_remote", lambda path: remote)
    seen = []

    def publish(finished, target):
        seen.append(records.prepared_versions(tmp_path, "shapes"))
        raise KeyboardInterrupt

    monkeypatch.setattr(staging, "publish", publish)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare("shapes", tmp_path, overwrite=True)
    assert seen == [[]]
    assert records.prepared_versions(tmp_path, "shapes") == []


def test_prepare_when_another_process_was_first(few_shapes, tmp_path, monkeypatch):
    draw = shapes.draw_record

    def draw_after_the_other(split, index, scene):
        if (split, index) == ("train", 0):
            monkeypatch.setattr(shapes, "draw_record", draw)
            prepare.prepare("shapes", tmp_path / "other")
            (tmp_path / "other" / "shapes").rename(tmp_path / "shapes")
        return draw(split, index, scene)

    monkeypatch.setattr(shapes, "draw_record", draw_after_the_other)
    assert prepare.prepare("shapes", tmp_path).num_examples == NUM_EXAMPLES
    assert not (tmp_path / ".building").exists()


def test_prepare_into_a_bucket_copies_the_metadata_last(
    few_shapes, tmp_path, monkeypatch
):
    seen = []
    is_finished = records.prepared_versions
    copy = staging.shutil.copyfileobj

    def copy_and_look(source, target, length):
        seen.append((pathlib.Path(target.name).name, is_finished(tmp_path, "shapes")))
        copy(source, target, length)

    monkeypatch.setattr(staging, "is_remote", lambda path: True)
    monkeypatch.setattr(staging.shutil, "copyfileobj", copy_and_look)
    prepare.prepare("shapes", tmp_path)

    assert seen[-1][0] == "metadata.json"
    assert [finished for _, finished in seen[:-1]] == [[]] * (len(seen) - 1)
    assert len(records.open_split(tmp_path, "shapes", "validation")) == 2


def test_every_record_is_read_back_before_a_build_is_finished(
    few_shapes, tmp_path, monkeypatch
):
    check = prepare.check_read_back

    def damage_and_check(built, checksums):
        file = next(built.glob("*train*"))
        data = bytearray(file.read_bytes())
        used = [at for at, byte in enumerate(data) if byte]  # the rest is padding
        data[used[len(used) // 2]] ^= 1  # neither the first record nor the last
        file.write_bytes(bytes(data))
        check(built, checksums)

    monkeypatch.setattr(prepare, "check_read_back", damage_and_check)
    match = (
        r"image train_\d+ of train can't be read back as it was written \(its file is"
    )
    with pytest.raises(ValueError, match=match):
        prepare.prepare("shapes", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_record_that_differs_from_what_was_written_is_named(
    few_shapes, tmp_path, monkeypatch
):
    check = prepare.check_read_back

    def swap_and_check(built, checksums):
        (first, a), (second, b), *rest = checksums["train"].items()
        check(built, {"train": {first: b, second: a, **dict(rest)}})

    monkeypatch.setattr(prepare, "check_read_back", swap_and_check)
    with pytest.raises(ValueError, match=r"image \S+ of train .* \(it differs\)"):
        prepare.prepare("shapes", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_script_prepares_coco_from_another_folder_without_tensorflow(
    tmp_path, installed
):
    coco_archives.write_archives(tmp_path / "archives")
    code = """
import sys, runpy
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    from eomt_jax.pipeline import records
    source = records.open_split("prepared", "coco_panoptic", "train")
    assert len(source[2].labels) > 0
    assert "tensorflow" not in sys.modules
"""
    done = run_python(
        "-c",
        code,
        f"{ROOT}/data/prepare.py",
        "coco_panoptic",
        "--archives=archives",
        "--data_dir=prepared",
        cwd=tmp_path,
        env=installed,
    )
    assert done.returncode == 0, done.stderr
    assert "coco_panoptic is ready" in done.stdout
    assert "3 train, 2 validation" in done.stdout
    assert "building coco_panoptic: 100%" in done.stderr


def test_preview_script_runs_from_another_folder(tmp_path, installed):
    done = run_python(f"{ROOT}/data/preview.py", cwd=tmp_path, env=installed)
    assert "name one prepared dataset" in done.stderr
    assert "Traceback" not in done.stderr


def test_script_says_what_is_wrong_without_a_traceback(tmp_path, installed):
    data_dir = tmp_path / "prepared"
    done = run_python(
        "data/prepare.py",
        "coco_panoptic",
        f"--archives={tmp_path}",
        f"--data_dir={data_dir}",
        env=installed,
    )
    assert done.returncode == 1
    assert "error: missing from" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(data_dir.iterdir()) == []
