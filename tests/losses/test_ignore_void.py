"""Pixels that belong to no segment are outside of every mask, or have no weight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.losses import mask_losses
from eomt_jax.losses.criterion import Criterion
from eomt_jax.pipeline.targets import num_mask_bytes
from eomt_jax.types import Outputs, Targets

# These comparisons hold to the last digits.
pytestmark = pytest.mark.usefixtures("optimized_programs")

SIDE, NUM_TARGETS = 32, 8
RELEASE = Criterion(num_points=512, class_weight=1e-9)
IGNORING = dataclasses.replace(RELEASE, ignore_void=True)
LEFT, RIGHT = 1, NUM_TARGETS + 1  # one target, and void


def make_targets(right, *, as_bits=False):
    """Returns targets whose left half is a target; `right` says what the other is."""
    ids = np.full((1, SIDE, SIDE), LEFT, np.uint8)
    ids[..., SIDE // 2 :] = right
    padded = np.arange(NUM_TARGETS) >= 1
    masks = {"id_map": jnp.asarray(ids)}
    if as_bits:
        of_each = ids[..., None] == np.arange(1, NUM_TARGETS + 2)
        bits = np.packbits(of_each, axis=-1, bitorder="little")
        assert bits.shape[-1] == num_mask_bytes(NUM_TARGETS + 1)
        masks = {"mask_bits": jnp.asarray(bits)}
    return Targets(
        labels=jnp.zeros((1, NUM_TARGETS), jnp.int32),
        valid=jnp.asarray(~padded[None]),
        is_crowd=jnp.zeros((1, NUM_TARGETS), bool),
        **masks,
    )


@functools.cache
def compiled(criterion):
    """Returns one program for all targets of a shape."""

    def total(masks, targets):
        outputs = Outputs((masks,), (jnp.zeros((1, 2, 2)),))
        return criterion(outputs, targets, rng=jax.random.key(0)).total

    return jax.jit(jax.value_and_grad(total))


def value_and_gradient(criterion, targets, right_logits):
    """Returns the loss of two queries; the first one fits the target's half better."""
    masks = np.stack([np.full((8, 8), 2.0), np.full((8, 8), -1.0)])[None]
    masks[..., 4:] = right_logits
    found = compiled(criterion)(jnp.asarray(masks, jnp.float32), targets)
    return jax.device_get(found)


@pytest.mark.parametrize("as_bits", [False, True])
def test_void_has_no_gradient_and_hardly_changes_the_loss(as_bits):
    targets = make_targets(RIGHT, as_bits=as_bits)
    # Points beside the target interpolate with its pixels; the other columns are void.
    loss, gradient = value_and_gradient(IGNORING, targets, 2.0)
    assert np.abs(gradient[0, 0, :, :4]).sum() > 0.1
    assert not gradient[..., 5:].any()
    far = np.array([2.0, -7.0, 7.0, 0.0])
    other, _ = value_and_gradient(IGNORING, targets, far)
    # Points where the network is undecided are chosen among all points.
    assert abs(other - loss) < 0.15 * loss
    _, gradient = value_and_gradient(RELEASE, targets, 2.0)
    assert gradient[0, 0, :, 5:].sum() > 0.1


def test_void_costs_nothing_in_matching():
    """A query that covers the target and void is preferred."""
    targets = make_targets(RIGHT)
    masks = np.full((1, 2, 8, 8), -6.0)
    masks[0, 0, :, :4], masks[0, 0, :, 4:] = 6.0, 6.0
    # The second query covers three quarters of the target and no void.
    masks[0, 1, :6, :4] = 6.0
    outputs = Outputs((jnp.asarray(masks, jnp.float32),), (jnp.zeros((1, 2, 2)),))
    matched = {}
    for criterion in (RELEASE, IGNORING):
        keys = jax.random.split(jax.random.key(0), 1)
        *_, queries = jax.jit(criterion._match_and_sum)(outputs, targets, keys)
        matched[criterion] = int(queries[0, 0, 0])
    assert matched == {RELEASE: 1, IGNORING: 0}


@pytest.mark.parametrize("right", [0, LEFT])
def test_without_void_the_loss_is_the_releases(right):
    """Padding stays outside of every mask."""
    targets = make_targets(right)
    found, expected = (
        value_and_gradient(criterion, targets, 1.0) for criterion in (IGNORING, RELEASE)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)


def test_photograph_of_void_alone_gives_a_finite_loss():
    """A crop may show less than a pixel of a target."""
    targets = make_targets(RIGHT)
    targets = targets.replace(id_map=jnp.full_like(targets.id_map, RIGHT))
    loss, gradient = value_and_gradient(IGNORING, targets, 1.0)
    assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_pairwise_costs_with_weights_equal_the_losses_of_each_pair():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(96, 3)), rng.uniform(size=(96, 2))
    weights = rng.uniform(size=96) * (rng.uniform(size=96) > 0.5)
    inputs = (jnp.asarray(x, jnp.float32) for x in (logits, targets, weights))
    bce, dice = mask_losses.pairwise_costs(*inputs)
    for q in range(3):
        for t in range(2):
            pair = [jnp.asarray(x) for x in (logits[:, q], targets[:, t], weights)]
            np.testing.assert_allclose(
                bce[q, t], mask_losses.binary_cross_entropy(*pair), rtol=1e-5
            )
            np.testing.assert_allclose(dice[q, t], mask_losses.dice(*pair), rtol=1e-5)
