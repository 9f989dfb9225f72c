"""eomt-benchmark's command line; tests/benchmark tests the measurements."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
RECIPE = "--config=configs/coco_panoptic_vits_640_1x.py"


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "eomt_jax.cli.benchmark", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (RECIPE,),
            "give --measure=inference,train_step,input_pipeline,evaluation or",
        ),
        ((RECIPE, "--measure=speed"), "--measure takes inference, train_step"),
        ((RECIPE, "--measure=inference", "--batch_sizes=0"), "numbers from 1"),
        (("--compile-for=v5e:2x2", RECIPE, "--programs=test"), "train and eval"),
        (("--compile-for=v5e:banana", RECIPE), "no TPU slice 'v5e:banana'"),
        (("--compile-for=h100:banana", RECIPE), "no GPUs 'h100:banana'"),
        (("--compile-for=banana", RECIPE), "no target 'banana'"),
    ],
)
def test_wrong_arguments_are_one_message(arguments, message):
    result = call(*arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
