"""Processes that share the data read nothing twice and leave nothing out."""

import itertools

import numpy as np
import pytest

from eomt_jax.pipeline import loader
from eomt_jax.pipeline.samples import TrainOptions

OPTIONS = TrainOptions(image_size=8)
BATCH = 24  # splits over 1, 2, 3, 4, 8, …
EPOCH = 2 * BATCH
NUM_EXAMPLES = EPOCH + 7


def trained_on(source, num_readers, num_batches, *, start=0):
    """Returns examples by reader and batch, [num_readers, num_batches, rows]."""
    shares = []
    for reader_index in range(num_readers):
        with loader.train_batches(
            source,
            global_batch_size=BATCH,
            options=OPTIONS,
            seed=5,
            start_example=start,
            reader_index=reader_index,
            num_readers=num_readers,
            num_threads=1,
        ) as batches:
            shares.append([next(batches).example_index for _ in range(num_batches)])
            assert batches.position == start + num_batches * BATCH
    return np.array(shares)


def in_order(shares):
    """Returns the examples in the order of a single reader."""
    return np.moveaxis(shares, 0, 1).ravel().tolist()


@pytest.mark.parametrize("num_readers", [2, 3, 4, 8])
def test_processes_share_each_batch_and_cover_each_epoch(drawn_source, num_readers):
    seen = in_order(trained_on(drawn_source(NUM_EXAMPLES), num_readers, 3))
    assert len(set(seen[:EPOCH])) == EPOCH
    assert set(seen[:EPOCH]) < set(range(NUM_EXAMPLES))
    assert seen == in_order(trained_on(drawn_source(NUM_EXAMPLES), 1, 3))


def test_epoch_goes_on_where_other_processes_left_it(drawn_source):
    """The parts have (readers, batches); epochs end after batches 2, 4 and 6."""
    parts = [(4, 1), (8, 2), (3, 1), (2, 2)]
    seen = []
    for num_readers, num_batches in parts:
        shares = trained_on(
            drawn_source(NUM_EXAMPLES), num_readers, num_batches, start=len(seen)
        )
        seen += in_order(shares)
    for start in range(0, len(seen), EPOCH):
        assert len(set(seen[start : start + EPOCH])) == EPOCH
    assert seen == in_order(trained_on(drawn_source(NUM_EXAMPLES), 1, 6))


@pytest.mark.parametrize("num_readers", [1, 2, 3, 4, 8])
def test_shards_of_any_size_take_every_position_once(num_readers):
    for local_rows, start in itertools.product(range(1, 7), (0, 5, 48)):
        rows = local_rows * num_readers
        shards = [
            loader.Shard(rows, index, num_readers, start)
            for index in range(num_readers)
        ]
        positions = [
            # A reader's rows are neighbours, in the order of its devices.
            shard.position(batch * local_rows + row)
            for batch in range(3)
            for shard in shards
            for row in range(local_rows)
        ]
        assert positions == list(range(start, start + 3 * rows))


@pytest.mark.parametrize("num_readers", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_examples", [1, 2, 7, 8, 9, 17])
def test_evaluation_visits_each_example_once_however_counts_divide(
    drawn_source, num_examples, num_readers
):
    """There are fewer examples than readers, a full last batch, or one row in it."""
    for rows in {num_readers, 8 // num_readers * num_readers}:
        shares = []
        for reader_index in range(num_readers):
            with loader.eval_batches(
                drawn_source(num_examples),
                global_batch_size=rows,
                image_size=8,
                reader_index=reader_index,
                num_readers=num_readers,
                num_threads=1,
            ) as batches:
                shares.append([np.where(b.valid, b.example_index, -1) for b in batches])
        # All have the same number of batches; otherwise some would wait forever.
        assert {len(share) for share in shares} == {-(-num_examples // rows)}
        seen = in_order(np.array(shares))
        assert seen[:num_examples] == list(range(num_examples))
        assert set(seen[num_examples:]) <= {-1}
