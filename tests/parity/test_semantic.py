"""Semantic windows and post-processing equal those of transformers.

We round resized sizes as the release does, while transformers truncates them. Our
windows begin at whole-number quotients, while both truncate a product of floats. The
rules agree for the sizes here.
"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from eomt_jax.pipeline import transforms
from eomt_jax.postprocess import semantic

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torch.set_num_threads(1)

SIZE, LOGITS, CANVAS, MAX_WINDOWS = 32, 8, (90, 112), 5
QUERIES, CLASSES = 10, 6
ORIGINAL_SIZES = [(32, 32), (32, 48), (90, 45), (20, 70), (80, 16), (64, 112)]
NUM_WINDOWS = [1, 2, 2, 4, 5, 2]
TRANSFORMERS_SIZE = {"shortest_edge": SIZE, "longest_edge": None}


@pytest.fixture(scope="module")
def processor():
    eomt = pytest.importorskip("transformers.models.eomt.image_processing_pil_eomt")
    return eomt.EomtImageProcessorPil(
        size=TRANSFORMERS_SIZE,
        do_split_image=True,
        do_rescale=False,
        do_normalize=False,
    )


@pytest.fixture(params=zip(ORIGINAL_SIZES, NUM_WINDOWS), ids=str)
def windowed(request, processor):
    """Returns a photograph, its number of windows, and transformers' windows of it."""
    original, num_windows = request.param
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (*original, 3), dtype=np.uint8)
    expected = processor(Image.fromarray(photograph))
    assert len(expected["pixel_values"]) == num_windows
    return Image.fromarray(photograph), num_windows, expected


def test_cut_windows_equals_transformers(windowed):
    photograph, num_windows, expected = windowed
    found = transforms.cut_windows(photograph, SIZE, MAX_WINDOWS)
    theirs = np.stack(expected["pixel_values"]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(found[:num_windows], theirs)
    assert not found[num_windows:].any()


@jax.jit
def segment(masks, classes, content_size, original_size):
    return semantic.semantic_segmentation(
        masks,
        classes,
        content_size,
        original_size,
        image_size=SIZE,
        canvas_size=CANVAS,
    ).label_map


def test_semantic_segmentation_equals_transformers(windowed, processor):
    photograph, num_windows, windows = windowed
    original = photograph.height, photograph.width
    content = np.array(transforms.cover_size(*original, SIZE))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        masks = rng.normal(0, 2, (MAX_WINDOWS, QUERIES, LOGITS, LOGITS))
        classes = rng.normal(0, 2, (MAX_WINDOWS, QUERIES, CLASSES + 1))
        masks, classes = masks.astype(np.float32), classes.astype(np.float32)
        expected = processor.post_process_semantic_segmentation(
            SimpleNamespace(
                masks_queries_logits=torch.tensor(masks[:num_windows]),
                class_queries_logits=torch.tensor(classes[:num_windows]),
                patch_offsets=[tuple(map(int, o)) for o in windows["patch_offsets"]],
            ),
            target_sizes=[original],
            size=TRANSFORMERS_SIZE,
            return_segmentation_scores=True,
        )[0]
        found = np.asarray(segment(masks, classes, content, np.array(original)))
        found = found[: original[0], : original[1]]
        scores = expected["segmentation_scores"].numpy()
        chosen = np.take_along_axis(scores, found[None], axis=0)[0]
        # The better of two classes in a pixel may depend on the last bits.
        np.testing.assert_allclose(chosen, scores.max(0), atol=1e-5)
        assert (found != expected["segmentation"].numpy()).mean() < 1e-3
        assert len(np.unique(found)) > 1
