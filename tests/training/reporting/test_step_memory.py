"""A step's memory is compared with that of the device."""

import types

import jax
import pytest

from eomt_jax.training.reporting import step_memory
from eomt_jax.training.setup import setup

H100 = {"kept": 5_000_000_000, "device": "NVIDIA H100"}


def test_step_that_fits_says_how_many_images_would():
    # An image takes three gigabytes, and 16 are free.
    said = step_memory.describe_fit(17 * 10**9, 33 * 10**9, images=4, **H100)
    assert said == (
        "This step takes 17.00 GB of the 33.00 GB that JAX may use of the NVIDIA H100: "
        "4 images in a pass, and about 9 would fit."
    )


@pytest.mark.parametrize(
    "available, room", [(12, "about 2 images of them"), (7, "not even one")]
)
def test_step_that_does_not_fit_says_so(available, room):
    said = step_memory.describe_fit(17 * 10**9, available * 10**9, images=4, **H100)
    assert "DOES NOT FIT: 4 images in a pass take 17.00 GB" in said
    assert room in said


def describe(config, monkeypatch, stats, num_devices=1):
    """Returns the table of a step that takes 3 GB, on devices with `stats`."""
    run = setup(config, devices=jax.devices()[:num_devices])
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=10**9, temp_size_in_bytes=2 * 10**9
    )
    device = types.SimpleNamespace(
        platform="gpu", device_kind="NVIDIA L4", memory_stats=lambda: stats
    )
    # JAX shares equal meshes, so this one may already have cached its devices.
    monkeypatch.setitem(vars(run.mesh), "local_devices", [device])
    return step_memory.describe_memory(run, analysis)


def test_last_sentence_is_of_the_device_at_hand(tiny_config, monkeypatch):
    said = describe(tiny_config, monkeypatch, {"bytes_limit": 4 * 10**9})
    *_, last = said.splitlines()
    assert last.startswith("This step takes 3.00 GB of the 4.00 GB that JAX may use")
    assert "NVIDIA L4: 2 images in a pass, and about 2 would fit." in last


def test_step_that_is_too_large_comes_with_advice(tiny_config, monkeypatch):
    tiny_config.batch_size = 8
    tiny_config.accumulation = 2
    said = describe(tiny_config, monkeypatch, {"bytes_limit": 2 * 10**9}, num_devices=2)
    assert "DOES NOT FIT: 2 images in a pass take 3.00 GB" in said
    assert "--config.model.remat=true" in said
    assert "--config.accumulation=4: one image a pass" in said
    assert "--config.mesh.fsdp=2" in said


@pytest.mark.parametrize("stats", [None, {}, {"bytes_limit": 0}])
def test_device_without_a_limit_is_named(tiny_config, monkeypatch, stats):
    said = describe(tiny_config, monkeypatch, stats)
    assert "A GPU was compiled for" in said and "docs/gpus.md" in said
