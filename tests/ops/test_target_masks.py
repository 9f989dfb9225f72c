"""Compact targets have the same values at points as the masks that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.ops import points, target_masks
from eomt_jax.types import Targets


def compact_targets(form, num_targets):
    """Returns (targets of two images, their masks [B, T, H, W])."""
    rng = np.random.default_rng(num_targets)
    padding = {
        "labels": np.zeros((2, num_targets), np.int32),
        "valid": np.ones((2, num_targets), bool),
        "is_crowd": np.zeros((2, num_targets), bool),
    }
    if form == "id_map":
        id_map = rng.integers(0, num_targets + 1, (2, 6, 5)).astype(np.uint8)
        masks = id_map[:, None] == np.arange(1, num_targets + 1)[:, None, None]
        return Targets(id_map=id_map, **padding), masks
    masks = rng.random((2, num_targets, 6, 5)) < 0.5
    bits = np.packbits(masks.transpose(0, 2, 3, 1), axis=-1, bitorder="little")
    return Targets(mask_bits=bits, **padding), masks


@pytest.mark.parametrize("form", ["id_map", "mask_bits"])
@pytest.mark.parametrize("num_targets", [3, 8, 19])
def test_reading_compact_targets_equals_sampling_their_masks(form, num_targets):
    targets, masks = compact_targets(form, num_targets)
    masks = jnp.asarray(masks, jnp.float32)
    rng = np.random.default_rng(1)

    shared = jnp.asarray(rng.uniform(size=(2, 13, 2)), jnp.float32)
    found = jax.jit(target_masks.sample_all)(targets, shared)
    for b in range(2):
        expected = jax.jit(points.sample_shared)(masks[b], shared[b])
        np.testing.assert_allclose(found[b], expected, atol=1e-6)

    image = jnp.array([1, 0, 1])
    target = jnp.array([num_targets - 1, 0, 1])
    own = jnp.asarray(rng.uniform(size=(3, 13, 2)), jnp.float32)
    sample_pairs = jax.jit(target_masks.sample_pairs)
    found = sample_pairs(targets, own, image=image, target=target)
    expected = jax.jit(points.sample_each)(masks[image, target], own)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_targets_without_masks_are_refused():
    targets, _ = compact_targets("id_map", 3)
    with pytest.raises(ValueError, match="carry no masks"):
        target_masks.sample_all(targets.replace(id_map=None), jnp.zeros((2, 1, 2)))
