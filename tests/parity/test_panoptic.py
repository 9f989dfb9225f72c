"""Panoptic post-processing equals transformers' and PyTorch's interpolate."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.pipeline.transforms import fit_size
from eomt_jax.postprocess import geometry, panoptic

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torch.set_num_threads(1)

SIZE, LOGITS, CANVAS = 64, 16, (96, 80)
IS_THING = np.array([True, True, True, False, False])
# The release and transformers round these sizes to the same numbers.
ORIGINAL_SIZES = [(96, 72), (40, 80), (64, 64), (32, 24), (96, 80), (11, 22), (33, 66)]


def random_logits(seed: int, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns round masks with wavy edges; some queries are sure of a class."""
    rng = np.random.default_rng(seed)
    pixels = np.stack(np.mgrid[:LOGITS, :LOGITS], -1)
    centre = rng.uniform(0, LOGITS, (num_queries, 1, 1, 2))
    radius = rng.uniform(0.5, 5, (num_queries, 1, 1))
    masks = 3 * (radius - np.linalg.norm(pixels - centre, axis=-1))
    masks += rng.normal(0, 0.5, masks.shape)
    classes = rng.normal(0, 1, (num_queries, len(IS_THING) + 1))
    num_sure = min(num_queries, rng.choice([3, 8, 12, 70]))
    sure = rng.permutation(num_queries)[:num_sure]
    classes[sure, rng.integers(0, len(IS_THING) + 1, len(sure))] += 6
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
    restored = geometry.restore_masks(masks, restore)
    return panoptic.panoptic_segmentation(
        masks, classes, restore, is_thing=IS_THING
    ), restored


def two_step_interpolate(masks, content, original):
    """Resizes twice in float64, since float32 positions have errors of 1e-5."""
    masks = torch.tensor(masks, dtype=torch.float64)[None]
    masks = torch.nn.functional.interpolate(masks, size=(SIZE, SIZE), mode="bilinear")
    masks = masks[:, :, : content[0], : content[1]]
    return torch.nn.functional.interpolate(masks, size=original, mode="bilinear")[0]


@pytest.mark.parametrize("original", [*ORIGINAL_SIZES, (95, 41), (1, 80), (96, 3)])
def test_restore_matrices_any_size_equals_two_interpolations(original):
    masks, classes = random_logits(0, 3)
    content = fit_size(*original, SIZE)
    _, restored = segment(masks, classes, jnp.array(content), jnp.array(original))
    expected = two_step_interpolate(masks, content, original).numpy()
    found = np.asarray(restored)[:, : original[0], : original[1]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("num_queries", [20, 100])
def test_panoptic_segmentation_random_logits_equals_transformers(num_queries):
    eomt = pytest.importorskip("transformers.models.eomt.image_processing_pil_eomt")
    processor = eomt.EomtImageProcessorPil()
    num_segments = 0
    for seed in range(4 * len(ORIGINAL_SIZES)):
        original = ORIGINAL_SIZES[seed % len(ORIGINAL_SIZES)]
        masks, classes = random_logits(seed, num_queries)
        content = fit_size(*original, SIZE)
        expected = processor.post_process_panoptic_segmentation(
            SimpleNamespace(
                masks_queries_logits=torch.tensor(masks)[None],
                class_queries_logits=torch.tensor(classes)[None],
            ),
            target_sizes=[original],
            stuff_classes=[int(k) for k in np.flatnonzero(~IS_THING)],
            size={"shortest_edge": SIZE, "longest_edge": SIZE},
        )[0]
        found, _ = segment(masks, classes, jnp.array(content), jnp.array(original))
        id_map = np.asarray(found.id_map)
        assert not id_map[original[0] :].any() and not id_map[:, original[1] :].any()
        id_map = id_map[: original[0], : original[1]]

        queries = np.flatnonzero(found.valid)
        infos = expected["segments_info"]
        assert [info["label_id"] for info in infos] == list(found.labels[queries])
        np.testing.assert_allclose(
            [info["score"] for info in infos], found.scores[queries], atol=2e-6
        )
        expected_ids = np.append(queries + 1, 0)[expected["segmentation"].int().numpy()]
        # The better of two queries in a pixel may depend on the last bit.
        assert (id_map != expected_ids).mean() < 1e-3
        num_segments += len(queries)
    assert num_segments > 40
