"""train.py runs as two processes, and ends as a whole if one of them ends."""

import shutil
import signal
import time

import pytest

from tests.chaos.outcome import differences, read_outcome
from tests.chaos.run import RUN_AGAIN, prepare_few_shapes
from tests.processes import Processes

TIMEOUT = 250.0


def start(folder, workdir, *, variables=(), **fields):
    fields = {
        "dataset.data_dir": folder / "data",
        "compilation_cache": folder / "compiled",
        "total_steps": 40,
        "optimizer.published_steps": 40,
        "checkpoint.every_steps": 100,
        "eval.every_steps": 0,
        "logging.picture_every_steps": 0,
        **fields,
    }
    return Processes(
        "tests.chaos.impatient",
        [
            "--config=tests/chaos/recipe.py",
            f"--workdir={folder / workdir}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ],
        count=2,
        devices=1,
        folder=folder,
        variables=variables,
    )


def wait_until(run, is_true):
    """Waits until `is_true` of the lines that process 0 has printed."""
    deadline = time.monotonic() + TIMEOUT
    while not is_true(run.output(0).splitlines()):
        assert run.running[0].poll() is None, run.output(0)
        assert time.monotonic() < deadline, run.output(0)
        time.sleep(0.02)


def wait_for(run, text):
    wait_until(run, lambda lines: any(line.startswith(text) for line in lines))


def wait_for_step(run, step):
    """Waits until process 0 has printed `step` or a later one."""

    def told(lines):
        steps = [line.split("/")[0].split()[1] for line in lines if line[:5] == "step "]
        return any(int(number) >= step for number in steps)

    wait_until(run, told)


@pytest.mark.timeout(600)
def test_run_of_two_processes_survives_what_hits_one_of_them(tmp_path):
    """After SIGTERM and then -9, it ends like an undisturbed run."""
    prepare_few_shapes(tmp_path / "data")
    checkpoints = tmp_path / "hit/checkpoints"
    with start(tmp_path, "undisturbed") as undisturbed:
        wait_for_step(undisturbed, 1)  # and has left its programs to the others
        with start(tmp_path, "hit") as run:
            wait_for_step(run, 1)
            run.running[1].send_signal(signal.SIGTERM)
            ended = run.wait(timeout=TIMEOUT)
        assert [one.returncode for one in ended] == [RUN_AGAIN] * 2, ended
        assert "Stopped by a signal; saved as " in ended[0].output
        saved = max(int(p.name) for p in checkpoints.iterdir() if p.name.isdecimal())
        assert 1 < saved < 40

        # The signal comes before the first step after a restart; after the step all
        # stop.
        with start(tmp_path, "hit") as run:
            wait_for(run, "Compiling the training step")
            run.running[1].send_signal(signal.SIGTERM)
            ended = run.wait(timeout=TIMEOUT)
        assert [one.returncode for one in ended] == [RUN_AGAIN] * 2, ended
        assert (checkpoints / str(saved + 1)).is_dir()
        saved += 1

        with start(tmp_path, "hit") as run:
            wait_for_step(run, saved + 1)
            run.running[1].send_signal(signal.SIGKILL)
            ended = run.wait(timeout=60)  # promised
        assert [one.returncode for one in ended] == [1, -signal.SIGKILL], ended
        assert "error: process 1 of 2 was lost" in ended[0].output
        assert "Traceback" not in ended[0].output

        for last in (start(tmp_path, "hit"), undisturbed):
            with last as run:
                ended = run.wait(timeout=TIMEOUT)
            assert [one.returncode for one in ended] == [0, 0], ended
            assert ended[1].output.count("step ") == 0  # process 0 alone tells
    outcome = read_outcome(tmp_path / "hit")
    assert outcome.step == 40 and len(outcome.records) == 40
    assert not differences(outcome, read_outcome(tmp_path / "undisturbed"))


def test_dataset_missing_on_one_process_is_told_by_both(tmp_path):
    prepare_few_shapes(tmp_path / "0/data")
    shutil.copytree(tmp_path / "0/data/shapes", tmp_path / "0/data/mine")
    homes = [{"HOME": str(tmp_path / str(index))} for index in range(2)]
    fields = {"dataset.data_dir": "~/data", "dataset.name": "mine"}
    with start(tmp_path, "run", variables=homes, **fields) as run:
        ended = run.wait(timeout=60)
    for one in ended:
        assert one.returncode == 1
        assert one.output.startswith(
            "error: process 1 of 2: dataset 'mine' is not prepared in ~/data."
        )
        assert len(one.output.splitlines()) == 1
    assert not (tmp_path / "run").exists()
