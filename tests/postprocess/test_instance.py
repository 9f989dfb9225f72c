import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.postprocess import geometry, instance

CANVAS = (3, 11)


@functools.partial(jax.jit, static_argnames=("num_instances",))
def run(masks, classes, original_size, **options):
    _, height, width = masks.shape
    restore = geometry.RestoreMatrices(jnp.eye(height), jnp.eye(width), original_size)
    return instance.instance_segmentation(masks, classes, restore, **options)


def segment(masks, probs, *, original_size=CANVAS, **options):
    """Returns instances from mask logits at full size and class probabilities."""
    padded = np.full((len(masks), *CANVAS), 7.0, np.float32)
    masks = np.asarray(masks, np.float32)
    padded[:, : masks.shape[1], : masks.shape[2]] = masks
    logits = np.log(np.asarray(probs, np.float32))
    found = run(padded, logits, np.array(original_size), **options)
    return found, np.unpackbits(
        np.asarray(found.mask_bits), axis=-1, count=CANVAS[1], bitorder="little"
    ).astype(bool)


def logit(probability):
    return np.log(probability / (1 - probability))


def test_instance_segmentation_score_is_probability_times_mean_inside():
    masks = [[[logit(0.6), logit(0.8), 0.0, -1.0]]]
    found, masks = segment(masks, [[0.5, 0.2, 0.3]], original_size=(1, 4))
    # The values 0.6 and 0.8 are inside; a logit of 0 is not.
    np.testing.assert_array_equal(found.labels, [0, 1])
    np.testing.assert_allclose(found.scores, [0.5 * 0.7, 0.2 * 0.7], rtol=1e-6)
    expected = np.zeros(CANVAS, bool)
    expected[0, :2] = True
    np.testing.assert_array_equal(masks, [expected, expected])


def test_instance_segmentation_takes_the_most_probable_pairs():
    masks = np.full((2, *CANVAS), -9.0)
    masks[0, 0], masks[1, 1] = 20.0, 20.0
    probs = [[0.1, 0.5, 0.4], [0.45, 0.3, 0.25]]
    found, masks = segment(masks, probs, num_instances=3)
    np.testing.assert_array_equal(found.labels, [1, 0, 1])
    np.testing.assert_array_equal(found.queries, [0, 1, 1])
    np.testing.assert_allclose(found.scores, [0.5, 0.45, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(masks[:, :2, 0], [[1, 0], [0, 1], [0, 1]])


def test_instance_segmentation_fewer_pairs_than_instances_gives_all():
    found, _ = segment(np.ones((2, 1, 1)), [[0.5, 0.2, 0.3], [0.4, 0.3, 0.3]])
    assert found.labels.shape == (4,)


def test_instance_segmentation_empty_mask_scores_nothing():
    found, masks = segment(np.full((1, *CANVAS), -1.0), [[0.9, 0.1]])
    np.testing.assert_array_equal(found.scores, [0.0])
    assert not masks.any()


@pytest.mark.parametrize("original_size", [(1, 1), (2, 9), CANVAS])
def test_instance_segmentation_pixels_past_the_photograph_count_nowhere(original_size):
    height, width = original_size
    masks = np.full((1, height, width), logit(0.75))  # filled up with 7: outside
    found, masks = segment(masks, [[0.9, 0.1]], original_size=original_size)
    np.testing.assert_allclose(found.scores, [0.9 * 0.75], rtol=1e-6)
    assert masks[0, :height, :width].all()
    assert masks.sum() == height * width


def test_instance_segmentation_many_blocks_equal_one(monkeypatch):
    rng = np.random.default_rng(0)
    masks = rng.normal(0, 2, (4, *CANVAS)).astype(np.float32)
    classes = rng.normal(0, 1, (4, 3)).astype(np.float32)
    whole = run(masks, classes, np.array(CANVAS))
    monkeypatch.setattr(geometry, "BLOCK_SIZE", (2, 8))  # of 3 × 11
    assert geometry.block_grid(CANVAS) == ((2, 8), (4, 16))
    traced_anew = jax.jit(lambda *inputs: run.__wrapped__(*inputs))
    blocks = traced_anew(masks, classes, np.array(CANVAS))
    np.testing.assert_array_equal(blocks.mask_bits, whole.mask_bits)
    np.testing.assert_allclose(blocks.scores, whole.scores, rtol=1e-6)


def test_instance_segmentation_never_holds_the_canvas_in_floats():
    canvas = (2000, 2000)

    def restored(masks, classes, content_size, original_size):
        restore = geometry.restore_matrices(
            content_size,
            original_size,
            logits_size=(40, 40),
            image_size=(160, 160),
            canvas_size=canvas,
        )
        return instance.instance_segmentation(masks, classes, restore)

    size = jax.ShapeDtypeStruct((2,), np.int32)
    compiled = jax.jit(restored).lower(
        jax.ShapeDtypeStruct((100, 40, 40), np.float32),
        jax.ShapeDtypeStruct((100, 81), np.float32),
        size,
        size,
    )
    # 100 masks are 1.6 GB as floats and 50 MB as bits.
    assert compiled.compile().memory_analysis().temp_size_in_bytes < 250e6


def test_stuff_takes_no_place_among_the_instances():
    # Two queries are surer of class 1, which is stuff, than the third is of a thing.
    probs = [[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.5, 0.2, 0.3]]
    found, _ = segment(
        np.ones((3, 2, 2)), probs, num_instances=2, is_thing=np.array([True, False])
    )
    np.testing.assert_array_equal(found.labels, [0, 0])
    np.testing.assert_allclose(found.scores / found.scores[1], [2.5, 1.0], rtol=1e-5)


def masks_of_columns(*spans):
    """Returns masks of one row, each from a first column to the one after its last."""
    masks = np.full((len(spans), 1, CANVAS[1]), -9.0)
    for mask, (begin, end) in zip(masks, spans, strict=True):
        mask[0, begin:end] = 20.0
    return masks


@pytest.mark.parametrize(
    ("nms_iou", "scores"),
    [
        (None, [0.9, 0.8, 0.7, 0.6, 0.5]),
        (1.0, [0.9, 0.8, 0.7, 0.6, 0.5]),
        # The second removes no other, since it is itself a duplicate of the first.
        (0.72, [0.9, 0.0, 0.7, 0.6, 0.5]),
        (0.6, [0.9, 0.0, 0.0, 0.6, 0.5]),
        (0.45, [0.9, 0.0, 0.0, 0.0, 0.5]),
    ],
)
def test_instance_segmentation_duplicates_score_nothing(nms_iou, scores):
    # The IoUs with the first are 0.8, 0.7, 0.5 and 1; that of the second and the third
    # is 0.875. The last is of another class.
    masks = masks_of_columns((0, 10), (0, 8), (1, 8), (0, 5), (0, 10))
    probs = [[s, 0.0, 1 - s] for s in (0.9, 0.8, 0.7, 0.6)] + [[0.0, 0.5, 0.5]]
    with np.errstate(divide="ignore"):
        found, _ = segment(
            masks, probs, original_size=(1, 11), num_instances=5, nms_iou=nms_iou
        )
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)


def test_instance_segmentation_duplicates_are_judged_by_score_not_by_class():
    """A sure class on an unsure mask has a lower score than the reverse."""
    masks = masks_of_columns((0, 10), (0, 10))
    masks[0] *= 0.01  # σ is 0.55 inside
    with np.errstate(divide="ignore"):
        found, _ = segment(
            masks, [[0.9, 0.1], [0.8, 0.2]], original_size=(1, 11), nms_iou=0.7
        )
    np.testing.assert_allclose(found.scores, [0.0, 0.8], rtol=1e-5)
