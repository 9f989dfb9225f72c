"""The NumPy code of docs/export.md has the results of the library."""

import pathlib
import re

import jax
import numpy as np
import pytest
from PIL import Image

from eomt_jax.postprocess import geometry
from eomt_jax.postprocess.panoptic import panoptic_segmentation

ROOT = pathlib.Path(__file__).parents[2]
SIDE = 32


@pytest.fixture(scope="module")
def document():
    text = (ROOT / "docs/export.md").read_text()
    section = text[text.index("## Before the network and after it") :]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)  # noqa: S102
    return names


@jax.jit
def ours(masks, classes, content, size, is_thing):
    restore = geometry.restore_matrices(
        content,
        size,
        logits_size=(SIDE // 4, SIDE // 4),
        image_size=(SIDE, SIDE),
        canvas_size=(48, 48),
    )
    return panoptic_segmentation(masks, classes, restore, is_thing=is_thing)


def test_photograph_fits_the_networks_input(document):
    photograph = Image.fromarray(np.full((10, 40), 7, np.uint8))
    image, content = document["prepare"](photograph, SIDE)
    assert content == (8, 32)
    assert image.shape == (SIDE, SIDE, 3)
    assert (image[:8] == 7).all()
    assert not image[8:].any()


@pytest.mark.parametrize("size", [(48, 30), (17, 20), (32, 32)])
def test_segments_are_those_of_the_library(size, document):
    """The masks are blobs of things and stuff, some of them unsure, some hidden."""
    found_segments = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        regions = rng.integers(0, 6, (3, 3))
        coarse = np.where(regions == np.arange(12)[:, None, None] // 2, 4.0, -4.0)
        coarse += rng.normal(0, 1.5, coarse.shape)
        masks = document["resize"](coarse, (8, 8)).astype(np.float32)
        classes = rng.normal(0, 1, (12, 5)).astype(np.float32)
        classes[np.arange(12), rng.integers(0, 5, 12)] += rng.choice([2.0, 9.0], 12)
        is_thing = np.array([True, False, True, False])
        factor = SIDE / max(size)
        content = tuple(round(length * factor) for length in size)
        id_map, segments = document["panoptic"](
            masks, classes, content, size, SIDE, is_thing
        )
        wanted = ours(masks, classes, np.array(content), np.array(size), is_thing)
        canvas = np.asarray(wanted.id_map)[: size[0], : size[1]]
        np.testing.assert_array_equal(id_map, canvas)
        (valid,) = np.nonzero(wanted.valid)
        assert {
            number: (label, pytest.approx(score, abs=1e-6))
            for number, (label, score) in segments.items()
        } == {q + 1: (wanted.labels[q], wanted.scores[q]) for q in valid.tolist()}
        found_segments += len(segments)
    assert found_segments >= 8


def test_image_without_segments_is_empty(document):
    masks, classes = np.zeros((3, 8, 8)), np.zeros((3, 5))
    id_map, segments = document["panoptic"](
        masks, classes, (32, 32), (20, 20), SIDE, [True] * 4
    )
    assert id_map.shape == (20, 20)
    assert not id_map.any()
    assert segments == {}
