"""Files of a run's checkpoints are damaged in many ways: each is found, or harmless."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from etils import epath

from eomt_jax.training.checkpoints.joint_reading import DamagedError
from eomt_jax.training.checkpoints.saving import Checkpoints
from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.weights.native import model_folder
from eomt_jax.weights.native.steps import best_step
from tests.test_regular_files import SPECIAL
from tests.training.checkpoints.test_saving import POSITION, assert_equal, make_state
from tests.weights.damage import damage_bytes, json_edits

STEPS = (4, 6)
MAX_MESSAGE = 2000  # letters
PLACES = {
    **{kind: make for kind, (make, _) in SPECIAL.items()},
    "folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "loop": lambda path: path.symlink_to(path),
}


@pytest.fixture(autouse=True)
def limits():
    """Ends a test that hangs, and fails one that takes long or half a gigabyte."""

    def stop(*_):
        raise TimeoutError("a checkpoint is read for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(100)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert time.process_time() - start < 60
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 500 * 1024  # in KiB


class Run:
    """The checkpoints of a run, of which one file at a time is changed."""

    def __init__(self, folder):
        self.folder = folder
        with Checkpoints(folder, keep=2) as checkpoints:
            for step in STEPS:
                score = Score("PQ", 50.0 + step)
                checkpoints.save(step, make_state(step), POSITION, score=score)
        self.newest = folder / str(STEPS[-1])
        self.files = sorted(f for f in self.newest.rglob("*") if f.is_file())
        self.like = make_state(0)
        self.state = self.read()
        self.num_refused = 0

    def read(self):
        """Reads what a resumed training reads, and an evaluation of its work directory."""
        step = STEPS[-1]
        with Checkpoints(self.folder, keep=2) as checkpoints:
            checkpoints.best()
            assert checkpoints.read_num_replaced(step) >= 0
            best_step(epath.Path(self.folder), checkpoints.steps())
            checkpoints.read_position(step)
            state = checkpoints.restore(step, self.like)
        assert_equal(model_folder.read_params(self.newest), state.params)
        return state

    def check(self, what):
        """Reads the run: an error must name it, and a state must be the right one."""
        try:
            state = self.read()
        except ValueError as error:
            self.num_refused += 1
            assert str(self.folder) in str(error), what
            assert len(str(error)) < MAX_MESSAGE, what
        else:
            assert_equal(state, self.state)

    def try_bytes(self, file, data, what):
        good = file.read_bytes()
        file.write_bytes(data)
        self.check(f"{file.name}: {what}")
        file.write_bytes(good)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run") / "checkpoints")


def test_damaged_bytes_of_a_step_are_found(run):
    rng = np.random.default_rng(0)
    run.num_refused = 0
    for file in run.files:
        good = file.read_bytes()
        run.try_bytes(file, *damage_bytes(rng, good))
    assert run.num_refused > 8


@pytest.mark.parametrize("item", ["about", "position"])
def test_values_of_a_step_of_other_types_are_found(run, item):
    file = run.newest / item / "metadata"
    value = json.loads(file.read_bytes())
    rng = np.random.default_rng(1)
    run.num_refused = 0
    for changed, what in json_edits(rng, value, 15):
        run.try_bytes(file, json.dumps(changed).encode(), what)
    for strange in [-1, 2.5, 10**400, float("nan"), "x" * 10**6, [], {}, None]:
        field = list(value)[rng.integers(len(value))]
        changed = value | {field: strange}
        run.try_bytes(file, json.dumps(changed).encode(), field)
        run.try_bytes(file, json.dumps(strange).encode(), "strange")
    assert run.num_refused > 10


@pytest.mark.parametrize(
    "score",
    [
        *({"name": "PQ", "value": value} for value in ("x", [1], None, 10**400, True)),
        *({"name": name, "value": 60.0} for name in (5, "x" * 10**6)),
        {"name": "PQ", "value": float("nan")},
        {"name": "PQ"},
        [60.0],
    ],
    ids=range(10),
)
def test_score_that_is_none_counts_as_missing(run, score):
    file = run.newest / "about/metadata"
    good = file.read_bytes()
    file.write_text(json.dumps(json.loads(good) | {"score": score}))
    with Checkpoints(run.folder, keep=2) as checkpoints:
        assert checkpoints.best() == (STEPS[0], Score("PQ", 54.0))
    assert best_step(epath.Path(run.folder), STEPS) == (STEPS[0], "PQ 54.0")
    file.write_bytes(good)


def test_swapped_files_of_steps_are_found(run):
    rng = np.random.default_rng(2)
    run.num_refused = 0
    for _ in range(15):
        file, other = rng.choice(run.files, 2)
        if rng.random() < 0.5:
            twin = run.folder / str(STEPS[0]) / other.relative_to(run.newest)
            other = twin if twin.exists() else other
        run.try_bytes(file, other.read_bytes(), f"{other}'s")
    assert run.num_refused > 2


@pytest.mark.parametrize("kind", PLACES)
def test_file_of_a_step_that_is_no_regular_one_is_refused_or_harmless(run, kind):
    run.num_refused = 0
    for file in run.files[list(PLACES).index(kind) % 3 :: 3]:
        good = file.read_bytes()
        file.unlink()
        PLACES[kind](file)
        run.check(f"{file} is a {kind}")
        if kind == "folder":
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(good)
    assert run.num_refused > 2


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Returns a folder of two checkpoints, to be copied before it is damaged."""
    folder = tmp_path_factory.mktemp("sound")
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (4, 6):
            checkpoints.save(step, make_state(step), POSITION)
    return folder


def flip(file):
    """Flips a bit in the middle of a file, as a failing disk might."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def pipe(file):
    """Replaces a file by a named pipe; to open it would wait forever."""
    file.unlink()
    os.mkfifo(file)


def largest(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


DAMAGES = {
    "truncated": lambda step: largest(step / "params/d").write_bytes(b"123"),
    "flipped": lambda step: flip(largest(step / "training/d")),
    "missing data": lambda step: shutil.rmtree(step / "training/d"),
    "missing item": lambda step: shutil.rmtree(step / "training"),
    "missing metadata": lambda step: (step / "params/_METADATA").unlink(),
    "empty position": lambda step: (step / "position/metadata").write_text(""),
    "torn checksums": lambda step: (step / "about/metadata").write_text('{"ver'),
    "nested position": lambda step: (step / "position/metadata").write_text(
        "[" * 10**5
    ),
    "position of no number": lambda step: (step / "position/metadata").write_text(
        json.dumps(dataclasses.asdict(POSITION) | {"next_example": -8})
    ),
    "other checksums": lambda step: (step / "about/metadata").write_text(
        '{"version": 1}'
    ),
    "pipe for data": lambda step: pipe(largest(step / "params/d")),
    "pipe for position": lambda step: pipe(step / "position/metadata"),
    "empty folder": lambda step: [
        shutil.rmtree(p) for p in step.iterdir() if p.is_dir()
    ],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_told(sound, tmp_path, damage):
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "6")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        with pytest.raises(DamagedError, match=f"{tmp_path / '6'} is damaged: .*"):
            checkpoints.read_position(6)
            checkpoints.restore(6, make_state(0))
        assert_equal(checkpoints.restore(4, make_state(0)), make_state(4))


def test_what_tensorstore_does_not_notice_is_found(sound, tmp_path):
    """The arrays are replaced by another state's, so every file by itself is sound."""
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "6/params")
    shutil.copytree(tmp_path / "4/params", tmp_path / "6/params")
    changed = pytest.raises(DamagedError, match="2 of its arrays have changed, as par")
    with Checkpoints(tmp_path, keep=2) as checkpoints, changed:
        checkpoints.restore(6, make_state(0))


def test_set_aside_checkpoint_is_none_and_can_be_saved_again(sound, tmp_path):
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    (tmp_path / "6.damaged").mkdir()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.set_aside(6) == tmp_path / "6.damaged.2"
        assert checkpoints.steps() == [4]
        checkpoints.save(6, make_state(7), POSITION)
        checkpoints.wait()
        assert_equal(checkpoints.restore(6, make_state(0)), make_state(7))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == [4, 6]
    assert (tmp_path / "6.damaged.2/params").is_dir()


def test_later_layout_is_refused_by_its_version(sound, tmp_path):
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    (tmp_path / "6/about/metadata").write_text('{"version": 2, "sums": 3}')
    later = pytest.raises(ValueError, match="layout of version 2; this")
    with Checkpoints(tmp_path, keep=2) as checkpoints, later as error:
        checkpoints.read_position(6)
    assert not isinstance(error.value, DamagedError)
