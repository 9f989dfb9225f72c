import dataclasses
import functools
import itertools

import numpy as np
import pytest

from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.tiles import (
    classes_of_tiles,
    instances_of_tiles,
    tile_note,
    tile_rows,
    tile_starts,
)
from tests.predict.channel_network import (
    INFO,
    SIZE,
    BrightestChannel,
    channel_params,
)


@functools.cache
def network():
    return CompiledNetwork(
        BrightestChannel(),
        channel_params(),
        INFO,
        batch_size=4,
        confidence="unnormalized",
    )


@pytest.mark.parametrize("length", [1, 31, 32, 33, 57, 64, 100, 1000])
def test_tile_starts_cover_and_overlap(length):
    starts = tile_starts(length, SIZE)
    assert starts[0] == 0
    assert max(starts[-1] + SIZE, length) == max(SIZE, length), "ends with the axis"
    for one, following in itertools.pairwise(starts):
        assert 0 < following - one <= SIZE * 3 // 4
    # There are no more tiles than necessary.
    assert len(starts) <= 1 + max(0, -(-(length - SIZE) // (SIZE * 3 // 4)))


def bilinear(logits, size):
    """Resizes with half-pixel centres, clamped and without antialiasing."""
    for axis in (0, 1):
        count = logits.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, count - 1)
        weight = (place - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        logits = (
            logits.take(low, axis) * (1 - weight) + logits.take(high, axis) * weight
        )
    return logits


def reference(image):
    """Returns the class scores of whole tiles, averaged, at the photograph's size."""
    classes = channel_params()["queries"].astype(np.float64)
    probs = np.exp(classes) / np.exp(classes).sum(1, keepdims=True)
    scores = np.zeros((*image.shape[:2], INFO.num_classes))
    count = np.zeros((*image.shape[:2], 1))
    for tile in itertools.chain.from_iterable(tile_rows(image.shape[:2], SIZE)):
        crop = np.zeros((SIZE, SIZE, 3))
        height, width = tile.size
        place = (slice(tile.top, tile.bottom), slice(tile.left, tile.right))
        crop[:height, :width] = image[place]
        pooled = crop.reshape(SIZE // 4, 4, SIZE // 4, 4, 3).mean((1, 3)) - 127
        masks = 1 / (1 + np.exp(-bilinear(pooled, SIZE)))
        scores[place] += (masks @ probs[:, :-1])[:height, :width]
        count[place] += 1
    return scores / count


@pytest.mark.parametrize("size", [(32, 32), (70, 90), (20, 110), (15, 9)])
def test_semantic_tiles_are_averaged(size):
    rng = np.random.default_rng(0)
    # The contrasts are weak, so that tiles disagree where they overlap.
    image = rng.integers(110, 145, (*size, 3), np.uint8)
    found = classes_of_tiles(network(), image)
    labels = np.append(-1, found.labels)[found.id_map]
    scores = reference(image)
    best = np.sort(scores, axis=-1)
    clear = best[..., -1] - best[..., -2] > 1e-3
    assert clear.mean() > 0.4
    np.testing.assert_array_equal(labels[clear], scores.argmax(-1)[clear])
    assert size == (15, 9) or len(found.labels) > 1
    np.testing.assert_allclose(found.confidence, best[..., -1].clip(0, 1), atol=1e-5)


def disk(size, center, radius):
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2


def test_instance_that_crosses_tiles_is_one():
    size = (90, 120)
    wanted = [
        disk(size, (45, 50), 30),  # larger than a tile
        disk(size, (14, 100), 9),
        disk(size, (75, 100), 9),
    ]
    image = np.zeros((*size, 3), np.uint8)
    for mask, channel in zip(wanted, (0, 2, 2)):
        image[mask, channel] = 255
    found = instances_of_tiles(network(), image, threshold=0.5)
    assert len(found.labels) == 3
    ious = [
        [(mask & other).sum() / (mask | other).sum() for other in found.masks]
        for mask in wanted
    ]
    assert np.max(ious, axis=1) == pytest.approx(1.0, abs=0.15)
    labels = found.labels[np.argmax(ious, axis=1)]
    assert labels.tolist() == [0, 1, 1]
    assert (np.diff(found.scores) <= 0).all()


def test_instance_tiles_without_an_object():
    found = instances_of_tiles(
        network(), np.zeros((50, 60, 3), np.uint8), threshold=0.5
    )
    assert found.masks.shape == (0, 50, 60)
    assert found.labels.shape == found.scores.shape == (0,)


@pytest.mark.parametrize(
    ("task", "trained", "size", "numbers"),
    [
        ("instance", (3000, 4000), (10, 10), ("0.16", "6.2")),  # 4000 / 640
        ("semantic", (3000, 4000), (10, 10), ("0.21", "4.7")),  # 3000 / 640
        ("instance", (480, 640), (3000, 4000), None),
        ("instance", (0, 0), (3000, 4000), ("0.16", "6.2")),
        ("panoptic", (0, 0), (160, 100), ("4", "0.25")),
        ("instance", (0, 0), (1280, 100), None),
    ],
)
def test_tile_note_says_how_far_scales_differ(task, trained, size, numbers):
    info = dataclasses.replace(INFO, max_image_size=trained, task=task)
    note = tile_note(info, 640, name="x/beach.jpg", size=size)
    if numbers is None:
        assert note == ""
    else:
        assert f"at scale {numbers[0]}:" in note
        assert f"{numbers[1]} times as large in tiles" in note
        assert ("beach.jpg" in note) == (trained == (0, 0))
