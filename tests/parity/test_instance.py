"""Instance post-processing equals that of transformers and of the release.

transformers keeps one instance of each query, of its best class, above a score
threshold, and draws all into one map. The release keeps the best (query, class) pairs,
whose masks may overlap, as we do. Both divide by area + 1e-6; we divide by the area
itself.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.pipeline.transforms import fit_size
from eomt_jax.postprocess import geometry, instance

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torch.set_num_threads(1)

SIZE, LOGITS, CANVAS = 64, 16, (96, 84)
QUERIES, CLASSES = 12, 5
# The release and transformers round these sizes to the same numbers.
ORIGINAL_SIZES = [(96, 72), (40, 80), (64, 64), (32, 24), (96, 80), (11, 22), (33, 66)]


def random_logits(seed):
    """Returns discs that overlap, one of them empty, and classes of any certainty."""
    rng = np.random.default_rng(seed)
    pixels = np.stack(np.mgrid[:LOGITS, :LOGITS], -1)
    centre = rng.uniform(0, LOGITS, (QUERIES, 1, 1, 2))
    radius = rng.uniform(0.5, 6, (QUERIES, 1, 1))
    radius[0] = -1
    masks = 2 * (radius - np.linalg.norm(pixels - centre, axis=-1))
    classes = rng.normal(0, 3, (QUERIES, CLASSES + 1))
    return masks.astype(np.float32), classes.astype(np.float32)


@jax.jit
def segment(masks, classes, content_size, original_size):
    restore = geometry.restore_matrices(
        content_size,
        original_size,
        logits_size=masks.shape[1:],
        image_size=(SIZE, SIZE),
        canvas_size=CANVAS,
    )
    return instance.instance_segmentation(masks, classes, restore, num_instances=40)


def instances(masks, classes, original):
    """Returns labels, scores and masks bool [N, H, W] of the photograph."""
    content = np.array(fit_size(*original, SIZE))
    found = jax.device_get(segment(masks, classes, content, np.array(original)))
    bits = np.unpackbits(found.mask_bits, axis=-1, bitorder="little").astype(bool)
    height, width = original
    assert not bits[:, height:].any() and not bits[:, :, width:].any()
    return found.labels, found.scores, bits[:, :height, :width]


def by_probability(classes):
    """Returns (query, class) pairs in the order of the post-processing."""
    probs = np.asarray(jax.nn.softmax(jnp.asarray(classes), axis=-1))[:, :-1]
    return np.argsort(-probs.ravel(), kind="stable")


@pytest.mark.parametrize("original", ORIGINAL_SIZES)
def test_instance_segmentation_best_class_equals_transformers(original):
    eomt = pytest.importorskip("transformers.models.eomt.image_processing_pil_eomt")
    threshold, num_segments = 0.2, 0
    for seed in range(4):
        masks, classes = random_logits(seed)
        expected = eomt.EomtImageProcessorPil().post_process_instance_segmentation(
            SimpleNamespace(
                masks_queries_logits=torch.tensor(masks)[None],
                class_queries_logits=torch.tensor(classes)[None],
            ),
            target_sizes=[original],
            threshold=threshold,
            size={"shortest_edge": SIZE, "longest_edge": SIZE},
        )[0]
        labels, scores, bits = instances(masks, classes, original)
        query = by_probability(classes)[: len(labels)] // CLASSES
        painted, infos = np.full(original, -1), []
        for q in range(QUERIES):
            best = np.flatnonzero(query == q)[:1]  # the query's most probable class
            if best.size and scores[best[0]] >= threshold and bits[best[0]].any():
                painted[bits[best[0]]] = len(infos)
                infos.append((labels[best[0]], scores[best[0]]))
        segments = expected["segments_info"]
        assert [s["label_id"] for s in segments] == [label for label, _ in infos]
        np.testing.assert_allclose(
            [s["score"] for s in segments], [score for _, score in infos], atol=3e-6
        )
        # The sign of a logit near 0 may depend on the last bit.
        assert (painted != expected["segmentation"].numpy()).mean() < 1e-3
        num_segments += len(segments)
    assert num_segments > 10


@pytest.mark.parametrize("original", [(96, 72), (95, 41), (2, 80), (96, 3)])
def test_instance_segmentation_pairs_equal_the_release(original):
    masks, classes = random_logits(7)
    content = fit_size(*original, SIZE)
    logits = torch.tensor(masks, dtype=torch.float64)[None]
    logits = torch.nn.functional.interpolate(logits, size=(SIZE, SIZE), mode="bilinear")
    logits = logits[:, :, : content[0], : content[1]]
    logits = torch.nn.functional.interpolate(logits, size=original, mode="bilinear")[0]
    probs = torch.tensor(classes).softmax(-1)[:, :-1].flatten()
    probs, pairs = probs.topk(40)
    logits = logits[pairs // CLASSES]
    inside = logits > 0
    area = inside.flatten(1).sum(1)
    mean = (logits.sigmoid() * inside).flatten(1).sum(1) / area.clamp(min=1)

    labels, scores, bits = instances(masks, classes, original)
    np.testing.assert_array_equal(labels, pairs % CLASSES)
    np.testing.assert_allclose(scores, probs * mean, atol=2e-6)
    assert (bits != inside.numpy()).mean() < 1e-4
