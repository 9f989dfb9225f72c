"""TensorBoard reads event files that are written without PyTorch and TensorFlow."""

import io
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from tensorboard.backend.event_processing import event_accumulator

from eomt_jax.training.reporting import event_file
from eomt_jax.training.reporting.event_file import EventFile

ROOT = pathlib.Path(__file__).parents[3]

# The program imports the modules of train.py, and writes an event file.
WITHOUT_TORCH = """
import sys
import numpy as np
import train
from eomt_jax.training.reporting import dry_run
from eomt_jax.training import loop
from eomt_jax.training.reporting.event_file import EventFile
events = EventFile(sys.argv[1], after_step=0)
events.scalar(1, "loss", 0.5)
events.image(1, "picture", np.zeros((2, 3, 3), np.uint8))
events.close()
print(sorted({"torch", "tensorflow", "tensorboard"} & sys.modules.keys()))
"""


def read(folder):
    accumulator = event_accumulator.EventAccumulator(
        str(folder), {"scalars": 0, "images": 0}
    )
    return accumulator.Reload()


def test_tensorboard_reads_scalars_and_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 300, 3), np.uint8)
    events = EventFile(tmp_path / "new", after_step=0)
    for step, value in ((1, 0.5), (127, -3e38), (128, 0.0), (2**40, 1e-38)):
        events.scalar(step, "loss/größe", value)
    events.image(300, "predictions", picture)
    events.close()
    found = read(tmp_path / "new")
    scalars = [(e.step, e.value) for e in found.Scalars("loss/größe")]
    tiny = float(np.float32(1e-38))
    assert scalars == [
        (1, 0.5),
        (127, float(np.float32(-3e38))),
        (128, 0.0),
        (2**40, tiny),
    ]
    [shown] = found.Images("predictions")
    assert (shown.step, shown.height, shown.width) == (300, 20, 300)
    png = PIL.Image.open(io.BytesIO(shown.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(png), picture)


def test_tensorboard_shows_nothing_of_steps_that_are_made_again(tmp_path):
    for after_step, values in ((0, (0.1, 0.2, 0.3)), (1, (0.25, 0.35))):
        events = EventFile(tmp_path, after_step=after_step)
        for step, value in enumerate(values, start=after_step + 1):
            events.scalar(step, "loss", value)
        events.close()
    found = [(e.step, round(e.value, 2)) for e in read(tmp_path).Scalars("loss")]
    assert found == [(1, 0.1), (2, 0.25), (3, 0.35)]


def test_checksum_is_the_one_of_the_format():
    """CRC-32C of the usual example is e3069283; rotated by 15 it is 2507c60d."""
    checksum = event_file._masked_checksum(b"123456789")
    assert checksum == (0x2507C60D + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_training_imports_neither_torch_nor_tensorflow(tmp_path, name):
    """A module of that name can be imported here, and prints that it was."""
    (tmp_path / "modules" / name).mkdir(parents=True)
    said = f"print('{name} was imported')"
    (tmp_path / "modules" / name / "__init__.py").write_text(said)
    path = os.pathsep.join((str(tmp_path / "modules"), str(ROOT)))
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "events")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "[]\n", ended.stdout + ended.stderr
    assert [e.value for e in read(tmp_path / "events").Scalars("loss")] == [0.5]
