import jax
import numpy as np
import pytest

from eomt_jax.pipeline.transforms import fit_size
from eomt_jax.predict.token_grids import TokenGrids, regroup
from eomt_jax.types import Batch, Targets

GRIDS = TokenGrids(640, 16)


@pytest.mark.parametrize(
    ("photograph", "expected"),
    [
        ((480, 640), (480, 640)),
        ((427, 640), (432, 640)),
        ((640, 427), (640, 432)),
        ((3000, 4000), (480, 640)),
        ((1080, 1920), (384, 640)),
        ((640, 639), (640, 640)),
        ((500, 500), (640, 640)),
        ((10, 320), (64, 640)),
    ],
)
def test_smallest_input_of_a_photograph(photograph, expected):
    assert GRIDS.smallest(fit_size(*photograph, 640)) == expected


def test_smallest_input_holds_all_photographs():
    assert GRIDS.smallest((427, 640), (480, 640)) == (480, 640)
    assert GRIDS.smallest((427, 640), (640, 200)) == (640, 640)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "patches"),
    [
        (640, 16, [4, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40]),
        (64, 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (1280, 16, [7, 14, 20, 27, 34, 40, 47, 54, 60, 67, 74, 80]),
    ],
)
def test_sides_are_twelfths_in_whole_patches(image_size, patch_size, patches):
    sides = TokenGrids(image_size, patch_size).sides
    assert sides == [patch_size * count for count in patches]


def batches_of(content_sizes, batch_size):
    """Yields batches of images 0, 1, 2 …; the last one is filled up."""
    sizes = [*content_sizes, *[(640, 640)] * (-len(content_sizes) % batch_size)]
    for begin in range(0, len(sizes), batch_size):
        index = np.arange(begin, begin + batch_size, dtype=np.int32)
        labels = np.zeros((batch_size, 1), np.int32)
        yield Batch(
            image=index.astype(np.uint8).reshape(-1, 1, 1, 1).repeat(3, -1),
            targets=Targets(labels, labels.astype(bool), labels.astype(bool)),
            valid=index < len(content_sizes),
            example_index=index,
            content_size=np.array(sizes[begin : begin + batch_size], np.int32),
            original_size=np.array(sizes[begin : begin + batch_size], np.int32),
        )


WIDE, TALL, SQUARE = (480, 640), (640, 470), (640, 640)
SHAPES = [WIDE, TALL, WIDE, SQUARE, WIDE, TALL, WIDE]


def test_regroup_brings_photographs_of_a_shape_together():
    found = list(regroup(batches_of(SHAPES, 4), GRIDS, batch_size=2))
    indices = [batch.example_index.tolist() for batch in found]
    assert indices == [[0, 2], [1, 5], [4, 6], [3, -1]]
    assert [batch.valid.tolist() for batch in found][-1] == [True, False]
    for batch in found:
        leaves = jax.tree.leaves(batch)
        assert {len(leaf) for leaf in leaves} == {2}
        sizes = {GRIDS.smallest(size) for size in batch.content_size.tolist()}
        assert len(sizes) == 1
        rows = batch.example_index[batch.valid]
        np.testing.assert_array_equal(batch.image[batch.valid, 0, 0, 0], rows)


def test_regroup_keeps_the_batches_size_by_default():
    found = list(regroup(batches_of(SHAPES, 4), GRIDS))
    assert {len(batch.valid) for batch in found} == {4}
    seen = np.concatenate([batch.example_index[batch.valid] for batch in found])
    assert sorted(seen.tolist()) == list(range(len(SHAPES)))


def test_regroup_closes_what_it_reads():
    class Batches:
        closed = False

        def __init__(self):
            self._batches = batches_of(SHAPES, 4)

        def __iter__(self):
            return self._batches

        def close(self):
            self.closed = True

    batches = Batches()
    grouped = regroup(batches, GRIDS, batch_size=1)
    next(grouped)
    grouped.close()
    assert batches.closed
