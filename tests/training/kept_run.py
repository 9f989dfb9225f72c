"""A small run's folder as the first layout of checkpoints wrote it, kept to be read.

tests/training/kept_run/ holds the checkpoint after two of four steps, and the logits that
its network gave. What writes it is only called again for a new layout, beside the old one:

  python -m tests.training.kept_run FOLDER
"""

import pathlib
import shutil
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from data import prepare, shapes
from eomt_jax.training import loop
from eomt_jax.weights import native
from eomt_jax.weights.load import load
from tests.training.conftest import make_config, register_micro_variant

FOLDER = pathlib.Path(__file__).with_name("kept_run")
STEP, LAST_STEP = 2, 4


def recipe(data_dir):
    """Of the run; the variant it needs is registered with it."""
    register_micro_variant()
    config = make_config(str(data_dir))
    config.total_steps = LAST_STEP
    config.optimizer.published_steps = LAST_STEP
    return config


def logits(folder):
    """Class and mask logits that the checkpoint in `folder` gives for fixed pixels."""
    model, params = load(folder)
    pixels = np.arange(32 * 32 * 3).reshape(1, 32, 32, 3) * 37 % 256
    out = jax.jit(model.apply)({"params": params}, jnp.asarray(pixels, jnp.uint8))
    return {"classes": out.class_logits[-1], "masks": out.mask_logits[-1]}


def write(folder):
    """Trains for a few steps and keeps what later releases must be able to read."""
    with tempfile.TemporaryDirectory() as data_dir:
        shapes.NUM_EXAMPLES = {"train": 10, "validation": 3}
        prepare.prepare("shapes", data_dir)
        loop.train(recipe(data_dir), folder, devices=jax.devices()[:1])
    for path in folder.iterdir():
        if path.name not in (native.STEPS_FOLDER, native.MODEL_FILE, "metrics.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder / native.STEPS_FOLDER / str(LAST_STEP))
    np.savez(folder / "logits.npz", **logits(folder / native.STEPS_FOLDER / str(STEP)))


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
