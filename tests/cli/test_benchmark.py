"""eomt-benchmark's command line; tests/benchmark tests the measurements."""

import subprocess
import sys

import pytest

from tests.processes import ROOT, installed_environment

RECIPE = "--config=configs/coco_panoptic_vits_640_1x.py"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return installed_environment(tmp_path_factory.mktemp("installed"))


def call(*arguments, env):
    return subprocess.run(
        # An installed command doesn't have the caller's folder in its path, hence -P.
        [sys.executable, "-P", "-m", "eomt_jax.cli.benchmark", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=env,
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (RECIPE,),
            "give one of --measure=inference,train_step,input_pipeline,evaluation, --c",
        ),
        ((RECIPE, "--measure=speed"), "--measure takes inference, train_step"),
        (
            (RECIPE, "--measure=inference", "--batch_sizes=0", "--images=3"),
            "numbers from 1",
        ),
        (("--compile-for=v5e:2x2", RECIPE, "--programs=test"), "train and eval"),
        (("--compile-for=banana", RECIPE), "no target 'banana'"),
    ],
)
def test_wrong_arguments_are_one_message(arguments, message, installed):
    result = call(*arguments, env=installed)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    note = "note: --images has no effect without --measure=evaluation\n"
    assert (note in result.stderr) == ("--images=3" in arguments)
