"""Writes a small run's folder, which is kept to test that later releases read it.

tests/training/kept_run/ holds a checkpoint of the first layout, after two of four
steps, and the logits of its network. It is only written again for a new layout, beside
the old:

  python -m tests.training.kept_run FOLDER
"""

import pathlib
import shutil
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from eomt_jax.datasets import prepare, shapes
from eomt_jax.training import loop
from eomt_jax.weights.load import load
from eomt_jax.weights.native import model_folder
from tests.training.conftest import make_config, register_micro_variant

FOLDER = pathlib.Path(__file__).with_name("kept_run")
STEP, LAST_STEP = 2, 4


def recipe(data_dir):
    """Returns the run's config; registers the variant that it needs."""
    register_micro_variant()
    config = make_config(str(data_dir))
    config.total_steps = LAST_STEP
    config.optimizer.published_steps = LAST_STEP
    return config


def logits(folder):
    """Returns class and mask logits of the checkpoint in `folder` for fixed pixels."""
    model, params = load(folder)
    pixels = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) * 37 % 256
    out = jax.jit(model.apply)({"params": params}, jnp.asarray(pixels, jnp.uint8))
    return {"classes": out.class_logits[-1], "masks": out.mask_logits[-1]}


def write(folder):
    """Trains for a few steps, and keeps the files that later releases must read."""
    with tempfile.TemporaryDirectory() as data_dir:
        shapes.NUM_EXAMPLES = {"train": 10, "validation": 3}
        prepare.prepare("shapes", data_dir)
        loop.train(recipe(data_dir), folder, devices=jax.devices()[:1])
    for path in folder.iterdir():
        if path.name not in (
            model_folder.STEPS_FOLDER,
            model_folder.MODEL_FILE,
            "metrics.jsonl",
        ):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder / model_folder.STEPS_FOLDER / str(LAST_STEP))
    np.savez(
        folder / "logits.npz", **logits(folder / model_folder.STEPS_FOLDER / str(STEP))
    )


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
