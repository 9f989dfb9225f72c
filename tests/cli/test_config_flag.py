"""Wrong flags give errors that a newcomer can act on."""

import pathlib
import subprocess
import sys

import pytest

from eomt_jax.options import list_options
from eomt_jax.training.options import RunOptions

ROOT = pathlib.Path(__file__).resolve().parents[2]


def train(*arguments, script="train.py"):
    return subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "override, said, command",
    [
        (
            "model.remt=true",
            "no field 'remt' in --config.model.remt=true; did you mean 'remat'?",
            ["eval.py"],
        ),
        (
            "batch_size=many",
            "invalid literal",
            ["train.py", "--config=configs/quickstart.py"],
        ),
    ],
)
def test_wrong_override_is_refused_in_one_line(override, said, command, tmp_path):
    script, *recipe = command
    result = train(
        *recipe, f"--workdir={tmp_path}", f"--config.{override}", script=script
    )
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_help_lists_every_field_with_its_sentence():
    result = train("--help")
    assert "Traceback" not in result.stderr
    text = " ".join(result.stdout.split())
    assert "--workdir: Folder of the run" in text
    for name, field in list_options(RunOptions):
        assert f"--config.{name}: {field.sentence} (" in text


def test_missing_recipe_is_named(tmp_path):
    result = train("--config=configs/quikstart.py", f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert "configs/quikstart.py" in result.stderr
    assert "Traceback" not in result.stderr


def test_value_out_of_range_is_refused_before_anything_is_prepared(tmp_path):
    result = train(
        "--config=configs/quickstart.py",
        f"--workdir={tmp_path}",
        f"--config.dataset.data_dir={tmp_path}",
        "--config.annealing.length=inf",
        "--config.augmentation.scale_range=('a','b')",
    )
    assert result.returncode == 1
    assert "config.annealing.length = inf: it must be a number" in result.stderr
    assert "config.augmentation.scale_range = ('a', 'b')" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
