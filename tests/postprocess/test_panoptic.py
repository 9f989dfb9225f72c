import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.postprocess import geometry, panoptic

THING, STUFF, NO_OBJECT = 0, 1, 2
IS_THING = np.array([True, False])
QUERIES, CANVAS = 4, (4, 6)


@functools.partial(jax.jit, static_argnames=("score_threshold",))
def run(masks, classes, original_size, **options):
    _, height, width = masks.shape
    restore = geometry.RestoreMatrices(jnp.eye(height), jnp.eye(width), original_size)
    return panoptic.panoptic_segmentation(
        masks, classes, restore, is_thing=IS_THING, **options
    )


def segment(masks, labels, *, confidence=20.0, original_size=None, **options):
    """Returns segments from mask logits at full size, within the photograph."""
    masks = np.array(masks, np.float32)
    count, height, width = masks.shape
    padded = np.full((max(count, QUERIES), *np.maximum(CANVAS, (height, width))), 5.0)
    padded[:count, :height, :width] = masks
    classes = np.zeros((len(padded), 3), np.float32)
    classes[np.arange(len(padded)), [*labels, *[NO_OBJECT] * (len(padded) - count)]] = (
        confidence
    )
    size = original_size or (height, width)
    found = run(padded.astype(np.float32), classes, np.array(size), **options)
    assert not found.id_map[size[0] :].any() and not found.id_map[:, size[1] :].any()
    assert not found.valid[count:].any()
    return found.replace(
        id_map=found.id_map[:height, :width],
        labels=found.labels[:count],
        valid=found.valid[:count],
    )


def test_panoptic_segmentation_stuff_merges_and_things_do_not():
    on, off = 9.0, -9.0
    masks = [
        [[on, off, off, off]],
        [[off, on, off, off]],
        [[off, off, on, off]],
        [[off, off, off, on]],
    ]
    found = segment(masks, [STUFF, THING, STUFF, THING])
    np.testing.assert_array_equal(found.id_map, [[1, 2, 1, 4]])
    np.testing.assert_array_equal(found.valid, [True, True, False, True])
    np.testing.assert_array_equal(found.labels, [STUFF, THING, STUFF, THING])


def test_panoptic_segmentation_first_stuff_dropped_second_takes_its_own_number():
    on, off = 9.0, -9.0
    masks = [[[on, on, on, off]], [[12.0, 12.0, off, off]], [[off, off, off, on]]]
    found = segment(masks, [STUFF, THING, STUFF])
    # The first keeps 1 of 3 pixels, so the other query of its class gives the segment.
    np.testing.assert_array_equal(found.id_map, [[2, 2, 0, 3]])
    np.testing.assert_array_equal(found.valid, [False, True, True])


def test_panoptic_segmentation_weak_pixels_are_won_but_left_out():
    found = segment([[[9.0, 9.0, 9.0, -1.0]]], [THING])
    np.testing.assert_array_equal(found.id_map, [[1, 1, 1, 0]])


def test_panoptic_segmentation_won_only_weak_pixels_is_no_segment():
    found = segment([[[-1.0, -1.0]]], [THING])
    assert not found.valid.any() and not found.id_map.any()


@pytest.mark.parametrize(("lost", "kept"), [(1, True), (2, False)])
def test_panoptic_segmentation_overlap_exactly_at_threshold_is_kept(lost, kept):
    below = np.full((1, 5), 3.0)
    above = np.full((1, 5), -9.0)
    above[0, :lost] = 9.0
    found = segment([below, above], [THING, THING])
    assert bool(found.valid[0]) is kept  # 4 of 5 won is not below 0.8, 3 of 5 is


def test_panoptic_segmentation_unsure_and_no_object_queries_take_no_pixels():
    on = [[9.0, 9.0]]
    unsure = segment([on], [THING], confidence=1.0)
    nothing = segment([on], [NO_OBJECT])
    low_bar = segment([on], [THING], confidence=1.0, score_threshold=0.5)
    assert not unsure.valid.any() and not unsure.id_map.any()
    assert not nothing.valid.any() and not nothing.id_map.any()
    assert low_bar.valid.all()


def test_panoptic_segmentation_pixels_past_the_photograph_count_nowhere():
    mask = np.full((4, 4), 9.0)
    other = np.full((4, 4), -9.0)
    other[2:] = 12.0  # outside: would take half of the first query's pixels
    found = segment([mask, other], [THING, THING], original_size=(2, 3))
    expected = np.zeros((4, 4), int)
    expected[:2, :3] = 1
    np.testing.assert_array_equal(found.id_map, expected)
    np.testing.assert_array_equal(found.valid, [True, False])


@pytest.mark.parametrize("num_kept", [0, 16, 17, 33, 40])
def test_panoptic_segmentation_any_number_of_kept_queries(num_kept):
    num_queries = 40
    masks = np.full((num_queries, 1, num_queries), -9.0)
    masks[np.arange(num_queries), 0, np.arange(num_queries)] = 9.0
    labels = np.full(num_queries, NO_OBJECT)
    kept = np.random.default_rng(0).permutation(num_queries)[:num_kept]
    labels[kept] = THING
    found = segment(masks, labels)
    expected = np.where(labels == THING, np.arange(num_queries) + 1, 0)
    np.testing.assert_array_equal(found.id_map[0], expected)
    np.testing.assert_array_equal(found.valid, labels == THING)
