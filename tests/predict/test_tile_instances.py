import numpy as np
import pytest

from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict import tile_instances
from eomt_jax.predict.tile_instances import Tile, cut_pieces, join_pieces

SIZE = (10, 16)
LEFT, RIGHT = Tile(0, 0, 10, 10), Tile(0, 6, 10, 16)


def pieces(tile, *objects):
    """Returns a tile's instances, given as (label, score, place in the photograph)."""
    masks = np.zeros((len(objects), *SIZE), bool)
    for mask, (_, _, place) in zip(masks, objects):
        mask[place] = True
    found = Segmentation(
        labels=np.array([label for label, _, _ in objects]),
        scores=np.array([score for _, score, _ in objects], np.float32),
        masks=masks[:, tile.top : tile.bottom, tile.left : tile.right],
    )
    return cut_pieces(found, tile)


def test_pieces_that_agree_become_one():
    bar = np.s_[2:4, 1:15]  # 9 columns in the left tile, 9 in the right one
    found = join_pieces(
        [*pieces(LEFT, (1, 0.9, bar)), *pieces(RIGHT, (1, 0.5, bar))], SIZE
    )
    expected = np.zeros(SIZE, bool)
    expected[bar] = True
    np.testing.assert_array_equal(found.masks, expected[None])
    assert found.labels.tolist() == [1]
    assert found.scores == pytest.approx([0.7])


@pytest.mark.parametrize(
    ("other", "count"),
    [
        ((2, 0.5, np.s_[2:4, 1:15]), 2),  # another class
        ((1, 0.5, np.s_[2:8, 6:15]), 2),  # agrees on a third of what both see
        ((1, 0.5, np.s_[2:4, 12:15]), 2),  # the left tile can't see it
        ((1, 0.5, np.s_[2:3, 7:9]), 1),  # a part of the first, seen again
    ],
)
def test_pieces_that_disagree(other, count):
    first = (1, 0.9, np.s_[2:4, 1:10])
    found = join_pieces([*pieces(LEFT, first), *pieces(RIGHT, other)], SIZE)
    assert len(found.labels) == count
    assert found.scores[0] == pytest.approx(0.9)


def test_pieces_join_each_with_one_other():
    """Neighbours in one tile stay apart, even if the other tile joins them."""
    upper, lower = (1, 0.9, np.s_[0:3, 4:12]), (1, 0.8, np.s_[3:6, 4:12])
    both = [*pieces(LEFT, upper, lower), *pieces(RIGHT, lower, upper)]
    found = join_pieces(both, SIZE)
    assert found.masks.sum((1, 2)).tolist() == [24, 24]
    assert not (found.masks[0] & found.masks[1]).any()
    assert found.scores == pytest.approx([0.9, 0.8])


def test_chain_over_three_tiles():
    tiles = [Tile(0, left, 10, left + 8) for left in (0, 4, 8)]
    bar = (0, 0.5, np.s_[4:5, :])
    found = join_pieces([p for tile in tiles for p in pieces(tile, bar)], SIZE)
    assert found.masks.sum() == 16
    assert len(found.labels) == 1


def test_more_instances_than_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(tile_instances, "_MAX_BYTES", 2 * SIZE[0] * SIZE[1])
    three = [
        (0, score, np.s_[row : row + 1, 1:4])
        for row, score in enumerate((0.6, 0.9, 0.8))
    ]
    found = join_pieces(pieces(LEFT, *three), SIZE)
    assert found.scores == pytest.approx([0.9, 0.8])
