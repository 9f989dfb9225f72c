"""A run killed with -9 at the worst moments ends like an undisturbed one."""

import json
import signal

import pytest

from tests.chaos.outcome import differences, read_outcome
from tests.chaos.run import prepare_few_shapes
from tests.processes import Processes


@pytest.mark.timeout(280)
def test_run_killed_between_while_restoring_and_while_writing_checkpoints(tmp_path):
    """The kills come one after the other; the last start is not killed."""
    prepare_few_shapes(tmp_path / "data")

    def start(workdir, module, *arguments):
        flags = {
            "config": "tests/chaos/recipe.py",
            "workdir": tmp_path / workdir,
            "config.dataset.data_dir": tmp_path / "data",
            "config.compilation_cache": tmp_path / "compiled",
            "config.total_steps": 6,
            "config.optimizer.published_steps": 6,
            "config.checkpoint.every_steps": 2,
            "config.eval.every_steps": 0,
            "config.logging.picture_every_steps": 0,
        }
        arguments = [*arguments, *(f"--{k}={v}" for k, v in flags.items())]
        return Processes(module, arguments, count=1, devices=1, folder=tmp_path)

    def die(point, step):
        with start("killed", "tests.chaos.dying", point, step) as run:
            (ended,) = run.wait(timeout=120)
        assert ended.returncode == -signal.SIGKILL, ended.output
        return ended.output

    def saved():
        folder = tmp_path / "killed/checkpoints"
        return {p.name for p in folder.iterdir() if p.name.isdecimal()}

    def told():
        lines = (tmp_path / "killed/metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    with start("undisturbed", "train") as undisturbed:
        die("before", 4)
        assert saved() == {"2"} and told() == [1, 2, 3]
        assert "The parameters are restored." in die("restoring", 2)
        assert saved() == {"2"} and told() == [1, 2, 3]
        assert "step 4/6" in die("writing", 4)
        assert saved() == {"2"} and told()[:4] == [1, 2, 3, 4]
        with start("killed", "train") as run:
            (ended,) = run.wait(timeout=120)
        assert ended.returncode == 0, ended.output
        assert f"Going on from {tmp_path}/killed/checkpoints/2." in ended.output
        (expected,) = undisturbed.wait(timeout=120)
    assert expected.returncode == 0, expected.output
    killed = read_outcome(tmp_path / "killed")
    assert killed.step == 6 and len(killed.records) == len(killed.events["loss"]) == 6
    assert not differences(killed, read_outcome(tmp_path / "undisturbed"))
