"""Run lengths are taken where pycocotools decodes them to the mask that they are of."""

import numpy as np
import pytest
from pycocotools import mask as mask_codec

from eomt_jax.datasets.run_lengths import find_broken


def encode(mask):
    return mask_codec.encode(np.asfortranarray(mask, np.uint8))["counts"]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (300, 200)])
def test_masks_of_pycocotools_are_whole(size):
    rng = np.random.default_rng(0)
    masks = [encode(rng.random(size) < share) for share in (0, 0.02, 0.5, 1)]
    assert find_broken(masks, size) is None
    assert find_broken(masks, (size[0] + 1, size[1])) == 0
    assert find_broken([], size) is None


@pytest.mark.parametrize(
    ("counts", "pixels"),
    [
        (b"4", 4),
        (b"13", 4),
        (b"0P2", 64),  # 2 · 32 + 0
        (b"1230", 8),  # 1, 2, 3, and 0 more than 2
        (b"TPPPP0", 4),
    ],
)
def test_run_lengths_by_hand(counts, pixels):
    assert find_broken([counts], (1, pixels)) is None
    assert find_broken([counts], (1, pixels + 1)) == 0
    assert find_broken([counts], (1, pixels - 1)) == 0


@pytest.mark.parametrize(
    "counts",
    [
        b"131L",  # the fourth run is 3 - 4
        b"4P",  # goes on, and ends
        b"",
        b"4\0",
        b"4 ",
        b"4\xff",
        b"TPPPPP0",  # 4, with more zeros than pycocotools can shift
        b"PPPPPPPPPPPPPP1",
    ],
)
def test_broken_run_lengths_are_found_among_others(counts):
    assert find_broken([b"4", b"13", counts, b"4"], (2, 2)) == 2


def test_run_lengths_that_are_taken_pycocotools_decodes_whole():
    rng = np.random.default_rng(0)
    size, taken = (5, 4), 0
    good = encode(rng.random(size) < 0.5)
    for _ in range(2000):
        counts = bytearray(good)
        for _ in range(rng.integers(1, 3)):
            counts[rng.integers(len(counts))] = rng.integers(44, 84)
        if find_broken([bytes(counts)], size) is None:
            rle = {"size": list(size), "counts": bytes(counts)}
            assert mask_codec.decode(rle).sum() == mask_codec.area(rle)
            taken += 1
    assert 10 < taken < 1000
