"""Files of a run's checkpoints are damaged in many ways: each is found, or harmless."""

import json
import resource
import signal
import time

import numpy as np
import pytest
from etils import epath

from eomt_jax.training.checkpoints.saving import Checkpoints
from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.weights.native import model_folder
from eomt_jax.weights.native.steps import best_step
from tests.test_regular_files import SPECIAL
from tests.training.checkpoints.test_saving import POSITION, assert_equal, make_state
from tests.weights.test_fuzz import damage_bytes, json_edits

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
