import functools

import jax
import numpy as np
import pytest

from eomt_jax.pipeline.transforms import cover_size, num_windows, window_start
from eomt_jax.postprocess import semantic

SIZE, LOGITS, CANVAS = 16, 4, (40, 70)
MAX_WINDOWS, QUERIES, CLASSES = 6, 5, 3


@functools.partial(jax.jit, static_argnames=("image_size", "canvas_size"))
def run(*inputs, image_size=SIZE, canvas_size=CANVAS):
    return semantic.semantic_segmentation(
        *inputs, image_size=image_size, canvas_size=canvas_size
    ).label_map


@functools.partial(jax.jit, static_argnames="kind")
def run_with_confidence(*inputs, kind):
    return semantic.semantic_segmentation(
        *inputs, image_size=SIZE, canvas_size=CANVAS, confidence=kind
    )


def logit(probability):
    return np.log(probability / (1 - probability))


def segment_tiny(masks, probs, original):
    """Returns labels for two windows of 2 × 2, two queries and two classes."""
    inputs = np.asarray(masks, np.float32), np.log(np.asarray(probs, np.float32))
    size = np.array(original)
    return run(*inputs, size, size, image_size=2, canvas_size=(3, 4))


def test_semantic_segmentation_sums_mask_times_class_probability():
    # On the left the scores are 0.9·0.3 + 0.2·0.9 and 0.9·0.6 + 0.2·0.1; on the right
    # 0.1·0.3 + 0.8·0.9 and 0.1·0.6 + 0.8·0.1. "No object" comes last, and has no score.
    masks = logit(np.array([[[0.9, 0.1]] * 2, [[0.2, 0.8]] * 2]))
    probs = [[0.3, 0.6, 0.1], [0.9, 0.1, 1e-9]]
    found = segment_tiny([masks, masks], [probs, probs], (2, 2))
    expected = [[1, 0, -1, -1], [1, 0, -1, -1], [-1, -1, -1, -1]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("upright", [False, True])
def test_semantic_segmentation_averages_where_windows_overlap(upright):
    # Two windows cover 3 pixels, the middle one twice. The second window is surer of
    # class 1 than the first is of class 0.
    masks = np.full((2, 2, 2, 2), 20.0)
    probs = [[[0.6, 0.3, 0.1]] * 2, [[0.1, 0.8, 0.1]] * 2]
    expected = np.array([[0, 1, 1], [0, 1, 1]])
    if upright:
        expected = expected.T
    found = np.asarray(segment_tiny(masks, probs, expected.shape))
    height, width = expected.shape
    np.testing.assert_array_equal(found[:height, :width], expected)


def test_semantic_segmentation_never_holds_all_scores_of_the_canvas():
    compiled = run.lower(
        jax.ShapeDtypeStruct((4, 100, 32, 32), np.float32),
        jax.ShapeDtypeStruct((4, 100, 151), np.float32),
        jax.ShapeDtypeStruct((2,), np.int32),
        jax.ShapeDtypeStruct((2,), np.int32),
        image_size=128,
        canvas_size=(2000, 2000),
    ).compile()
    # Scores of 150 classes would take 2.4 GB; the labels alone take 16 MB.
    assert compiled.memory_analysis().temp_size_in_bytes < 150e6


def random_logits(seed):
    rng = np.random.default_rng(seed)
    masks = rng.normal(0, 3, (MAX_WINDOWS, QUERIES, LOGITS, LOGITS))
    classes = rng.normal(0, 2, (MAX_WINDOWS, QUERIES, CLASSES + 1))
    return masks.astype(np.float32), classes.astype(np.float32)


def resize_matrix(in_size, out_size):
    eye = np.eye(in_size, dtype=np.float32)
    return np.asarray(
        jax.image.resize(eye, (out_size, in_size), "linear", antialias=False)
    )


def class_scores(masks, classes, original):
    """Returns [K, H, W] in float64, computed at full size."""
    content = cover_size(*original, SIZE)
    sums, counts = np.zeros((CLASSES, *content)), np.zeros(content)
    up = resize_matrix(LOGITS, SIZE)
    for j in range(num_windows(max(content), SIZE)):
        start = window_start(j, max(content), SIZE)
        upright = original[0] > original[1]
        window = slice(start, start + SIZE)
        place = (window, slice(None)) if upright else (slice(None), window)
        probs = np.exp(classes[j]) / np.exp(classes[j]).sum(-1, keepdims=True)
        mask_probs = 1 / (1 + np.exp(-(up @ masks[j].astype(np.float64) @ up.T)))
        sums[:, *place] += np.einsum("qk,qhw->khw", probs[:, :-1], mask_probs)
        counts[place] += 1
    rows, columns = map(resize_matrix, content, original)
    return rows @ (sums / counts) @ columns.T


@pytest.mark.parametrize(
    "original",
    [
        (20, 30),
        (30, 20),
        (16, 16),
        (40, 70),
        (40, 11),
        (7, 40),
        (1, 6),
        (3, 2),
        (5, 29),
    ],
)
def test_semantic_segmentation_equals_everything_at_full_size(original):
    masks, classes = random_logits(sum(original))
    content = cover_size(*original, SIZE)
    scores = class_scores(masks, classes, original)
    found = run(masks, classes, np.array(content), np.array(original))
    height, width = original
    inside = np.asarray(found)[:height, :width]
    chosen = np.take_along_axis(scores, inside[None], axis=0)[0]
    np.testing.assert_allclose(chosen, scores.max(0), atol=1e-5)
    assert (found[height:] == -1).all() and (found[:, width:] == -1).all()


@pytest.mark.parametrize("kind", ["unnormalized", "normalized"])
def test_confidence_is_of_the_scores_at_full_size(kind):
    masks, classes = random_logits(1)
    for original in ((20, 30), (30, 20), (40, 70)):
        sizes = np.array(cover_size(*original, SIZE)), np.array(original)
        found = run_with_confidence(masks, classes, *sizes, kind=kind)
        scores = class_scores(masks, classes, original)
        expected = scores.max(0).clip(0, 1)
        if kind == "normalized":
            expected = scores.max(0) / scores.sum(0)
        height, width = original
        inside = found.confidence[:height, :width]
        np.testing.assert_allclose(inside, expected, atol=1e-5)
        assert not found.confidence[height:].any()
        assert not found.confidence[:, width:].any()
        np.testing.assert_array_equal(found.label_map, run(masks, classes, *sizes))
