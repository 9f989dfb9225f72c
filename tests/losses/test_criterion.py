"""The loss depends on targets, and not on padding, devices or chunks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.losses import matched_losses
from eomt_jax.losses.criterion import Criterion
from eomt_jax.losses.matcher import MATCHERS
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.types import Outputs, Targets

# The values that are compared here agree to the last digits.
pytestmark = pytest.mark.usefixtures("optimized_programs")

CRITERION = Criterion(num_points=48)
NUM_QUERIES = 6


def make_outputs(batch: int = 2, num_predictions: int = 1) -> Outputs:
    rng = np.random.default_rng(0)
    masks = rng.normal(size=(num_predictions, batch, NUM_QUERIES, 8, 8))
    classes = rng.normal(size=(num_predictions, batch, NUM_QUERIES, 4))
    return Outputs(
        tuple(jnp.asarray(masks, jnp.float32)), tuple(jnp.asarray(classes, jnp.float32))
    )


def make_targets(counts, padded: int) -> Targets:
    """Returns targets in which image b has counts[b] vertical bars."""
    id_map = np.zeros((len(counts), 32, 32), np.uint8)
    labels = np.zeros((len(counts), padded), np.int32)
    for b, count in enumerate(counts):
        for t in range(count):
            id_map[b, :, 32 * t // count : 32 * (t + 1) // count] = t + 1
            labels[b, t] = t % 3
    return Targets(
        id_map=jnp.asarray(id_map),
        labels=jnp.asarray(labels),
        valid=jnp.asarray(np.arange(padded) < np.array(counts)[:, None]),
        is_crowd=jnp.zeros((len(counts), padded), bool),
    )


@functools.cache
def compiled(criterion, chunk_size):
    """Returns one program for all targets of a shape; it is traced with chunk_size."""
    assert chunk_size == matched_losses.MAX_CHUNK_SIZE

    def total(outputs, targets):
        terms = criterion(outputs, targets, rng=jax.random.key(3))
        return terms.total, terms

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def value_and_gradient(targets, outputs=None, criterion=CRITERION):
    outputs = outputs or make_outputs(len(targets.labels))
    return compiled(criterion, matched_losses.MAX_CHUNK_SIZE)(outputs, targets)


def assert_same(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5),
        found,
        expected,
    )


def test_masks_as_bits_give_the_loss_and_gradient_of_the_same_id_map():
    targets = make_targets((3, 1), padded=9)
    masks = np.asarray(targets.id_map)[..., None] == np.arange(1, 10)
    bits = np.packbits(masks, axis=-1, bitorder="little")
    assert_same(
        value_and_gradient(targets.replace(id_map=None, mask_bits=jnp.asarray(bits))),
        value_and_gradient(targets),
    )


def test_padding_changes_neither_loss_nor_gradients():
    few = make_targets((3, 2), padded=4)
    many = make_targets((3, 2), padded=40)
    # Padding may hold anything, here a label and a crowd.
    labels = jnp.where(many.valid, many.labels, 2)
    many = dataclasses.replace(many, labels=labels, is_crowd=~many.valid)
    assert_same(value_and_gradient(many), value_and_gradient(few))


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (1, 1), (6, 9), (9, 9)])
def test_any_number_of_targets_gives_a_finite_loss(counts):
    (total, terms), gradient = value_and_gradient(make_targets(counts, padded=9))
    assert np.isfinite(total)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    touched = [(np.abs(g) > 0).any((2, 3)).sum(-1) for g in gradient.mask_logits]
    # The number of queries that learn a mask is that of targets, up to all queries.
    for per_image in touched:
        assert per_image.tolist() == [min(n, NUM_QUERIES) for n in counts]
    if sum(counts) == 0:
        assert terms.mask.sum() == terms.dice.sum() == 0
        assert total == CRITERION.class_weight * terms.classification.sum()


def test_crowds_count_for_nothing():
    targets = make_targets((3, 2), padded=4)
    crowd = targets.is_crowd.at[0, 2].set(True)
    found = value_and_gradient(dataclasses.replace(targets, is_crowd=crowd))
    dropped = dataclasses.replace(
        targets,
        valid=targets.valid.at[0, 2].set(False),
        id_map=jnp.where(targets.id_map == 3, 0, targets.id_map),
    )
    # Image 1 doesn't change, and in image 0 the third bar is background.
    assert_same(found, value_and_gradient(dropped))


def test_total_is_the_weighted_sum_of_its_parts():
    targets, outputs = make_targets((3, 2), padded=4), make_outputs(num_predictions=2)
    (total, terms), _ = value_and_gradient(targets, outputs)
    assert terms.mask.shape == (2,)
    expected = 5 * terms.mask + 5 * terms.dice + 2 * terms.classification
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-6)


def test_gradient_made_on_the_way_equals_finite_differences():
    targets = make_targets((2, 1), padded=3)
    # All points are fresh ones, since the choice by |logit| isn't continuous.
    criterion = Criterion(num_points=400, importance_ratio=0.0, oversample_ratio=0.01)
    outputs = make_outputs()
    _, gradient = value_and_gradient(targets, outputs, criterion)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), outputs
    )

    @jax.jit
    def at(distance):
        moved = jax.tree.map(lambda x, d: x + distance * d, outputs, direction)
        return criterion(moved, targets, rng=jax.random.key(3)).total

    slope = (float(at(1e-3)) - float(at(-1e-3))) / 2e-3
    products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
    np.testing.assert_allclose(slope, sum(jax.tree.leaves(products)), rtol=2e-2)


def test_chunks_of_any_size_give_the_same(monkeypatch):
    targets = make_targets((6, 5), padded=7)
    expected = value_and_gradient(targets)
    monkeypatch.setattr(matched_losses, "PAIRS_PER_IMAGE", 7)
    for size in (1, 5):
        monkeypatch.setattr(matched_losses, "MAX_CHUNK_SIZE", size)
        assert_same(value_and_gradient(targets), expected)


def test_loss_without_gradient_is_the_same():
    targets = make_targets((3, 2), padded=4)
    (total, _), _ = value_and_gradient(targets)
    plain = jax.jit(CRITERION)(make_outputs(), targets, rng=jax.random.key(3)).total
    np.testing.assert_allclose(plain, total, rtol=1e-6)


def test_failed_matcher_makes_the_loss_nan(monkeypatch):
    def failing(costs, valid):
        return jnp.full((*costs.shape[:2], costs.shape[3]), costs.shape[2], jnp.int32)

    monkeypatch.setitem(
        __import__("eomt_jax.losses.matcher", fromlist=["MATCHERS"]).MATCHERS,
        "scipy",
        failing,
    )
    targets = make_targets((3, 2), padded=4)

    # The loss is traced again, since the other tests' program has the working matcher.
    def total(outputs, targets):
        return CRITERION(outputs, targets, rng=jax.random.key(3)).total

    assert np.isnan(jax.jit(total)(make_outputs(), targets))


def test_devices_with_the_same_images_take_the_first_ones_matching(monkeypatch):
    outputs, targets = make_outputs(), make_targets((3, 1), padded=3)

    def loss(device, mesh):
        def match(costs, valid):
            query = jnp.arange(costs.shape[-1]) + device()
            return jnp.where(valid, query, -1)[None].repeat(len(costs), 0)

        monkeypatch.setitem(MATCHERS, "device", match)
        criterion = dataclasses.replace(CRITERION, matcher="device")
        return jax.jit(functools.partial(criterion, mesh=mesh))(
            outputs, targets, rng=jax.random.key(3)
        )

    mesh = create_mesh(MeshOptions(tensor=2), devices=jax.devices()[:2])
    first, second = loss(lambda: 0, None), loss(lambda: 1, None)
    assert_same(loss(lambda: jax.lax.axis_index("tensor"), mesh), first)
    assert abs(first.total - second.total) > 0.01


def test_unknown_matcher_lists_the_known():
    with pytest.raises(ValueError, match=r"'greedy'; there are scipy, device"):
        Criterion(matcher="greedy")
