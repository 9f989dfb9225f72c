"""Batches have the right order and sharding, and continue from a position."""

import dataclasses
import multiprocessing
import os
import signal
import sys

import cloudpickle
import jax
import numpy as np
import pytest

from eomt_jax.pipeline import loader
from eomt_jax.pipeline.samples import DamagedImageError, TrainOptions

OPTIONS = TrainOptions(image_size=32, color_jitter=True)


def take(source, count, *, options=OPTIONS, **overrides):
    arguments = {"global_batch_size": 4, "seed": 3, "num_threads": 2, **overrides}
    with loader.train_batches(source, options=options, **arguments) as batches:
        return [next(batches) for _ in range(count)]


def assert_equal_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def examples(batches):
    return [int(index) for batch in batches for index in batch.example_index]


def test_epochs_cover_each_example_once_but_for_the_dropped_batch(drawn_source):
    # 11 examples in batches of 4 are two batches in an epoch, without three examples.
    seen = examples(take(drawn_source(11), 6))
    epochs = [seen[start : start + 8] for start in (0, 8, 16)]
    for epoch in epochs:
        assert len(set(epoch)) == 8 and set(epoch) < set(range(11))
    assert epochs[0] != epochs[1] != epochs[2]
    assert set(epochs[0]) != set(epochs[1])


def test_two_processes_share_the_batches_of_one(drawn_source):
    source = drawn_source(11)
    whole = take(source, 5)
    halves = [
        take(source, 5, reader_index=i, num_readers=2, num_threads=1 + i)
        for i in range(2)
    ]
    for batch, *shards in zip(whole, *halves, strict=True):
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), *shards)
        assert_equal_batches([joined], [batch])


@pytest.mark.parametrize("num_threads", [1, 3])
def test_resumed_run_gives_the_batches_of_an_uninterrupted_one(
    drawn_source, num_threads
):
    source = drawn_source(11)
    whole = take(source, 7)
    with loader.train_batches(
        source, global_batch_size=4, options=OPTIONS, seed=3
    ) as batches:
        first = [next(batches) for _ in range(3)]
        position = batches.position
    assert position == 12
    rest = take(source, 4, start_example=position, num_threads=num_threads)
    assert_equal_batches([*first, *rest], whole)


@pytest.mark.timeout(120)
def test_worker_processes_outlive_the_signals_of_the_whole_job(drawn_source):
    module = sys.modules[drawn_source.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        with loader.train_batches(
            drawn_source(11),
            global_batch_size=4,
            options=OPTIONS,
            seed=3,
            num_workers=1,
        ) as batches:
            got = [next(batches)]
            (worker,) = multiprocessing.active_children()
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(worker.pid, number)
            # These are far more batches than are read ahead.
            got += [next(batches) for _ in range(20)]
            assert worker.is_alive()
        assert not worker.is_alive()
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert_equal_batches(got, take(drawn_source(11), 21))


@pytest.mark.timeout(120)
def test_worker_processes_change_nothing_and_pass_errors_on(drawn_source):
    # A worker can't import the module of the drawn photographs by name.
    module = sys.modules[drawn_source.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        whole = take(drawn_source(11), 6)
        # The first epoch happens to leave out the damaged example.
        damaged = min(set(examples(whole)) - set(examples(whole[:2])))
        first = next(
            i for i, batch in enumerate(whole) if damaged in batch.example_index
        )
        with loader.train_batches(
            drawn_source(11, damaged={damaged}),
            global_batch_size=4,
            options=OPTIONS,
            seed=3,
            start_example=4,
            num_threads=2,
            num_workers=2,
        ) as batches:
            workers = [next(batches) for _ in range(first - 1)]
            with pytest.raises(DamagedImageError, match=f"'photo-{damaged:03d}'"):
                next(batches)
        assert_equal_batches(workers, whole[1:first])
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_damaged_image_stops_the_iterator_by_default(drawn_source):
    with pytest.raises(DamagedImageError, match="'photo-005'"):
        take(drawn_source(8, damaged={5}), 2)


def test_replaced_images_are_marked_in_the_batch(drawn_source):
    options = TrainOptions(image_size=32, on_damaged="replace")
    batches = take(drawn_source(8, damaged={5}), 4, options=options)
    assert sum(int(batch.replaced.sum()) for batch in batches) == 2
    assert 5 not in examples(batches)


def test_batch_has_the_promised_shapes_and_types(drawn_source):
    (batch,) = take(drawn_source(8, max_segments=6), 1)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), batch)
    assert shapes.image == ((4, 32, 32, 3), "uint8")
    assert shapes.targets.id_map == ((4, 32, 32), "uint8")
    assert shapes.targets.labels == ((4, 6), "int32")
    assert shapes.targets.valid == shapes.targets.is_crowd == ((4, 6), "bool")
    assert shapes.valid == shapes.replaced == ((4,), "bool")
    assert shapes.example_index == ((4,), "int32")
    assert shapes.content_size == shapes.original_size == ((4, 2), "int32")
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))


def test_close_ends_the_iterator_and_may_be_repeated(drawn_source):
    batches = loader.train_batches(
        drawn_source(8), global_batch_size=4, options=OPTIONS, seed=0
    )
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"global_batch_size": 9}, "8 examples don't fill one batch of 9"),
        ({"num_readers": 3}, "does not split over 3 readers"),
        ({"num_readers": 2, "reader_index": 2}, "reader 2 of 2"),
        ({"start_example": -4}, "must not be negative: -4"),
        ({"seed": -1}, "must not be negative: -1"),
    ],
)
def test_train_batches_refuse_what_cannot_work(drawn_source, overrides, message):
    with pytest.raises(ValueError, match=message):
        take(drawn_source(8), 1, **overrides)


@pytest.mark.parametrize("num_readers", [1, 2])
def test_eval_batches_show_every_example_once(drawn_source, num_readers):
    shards = []
    for reader_index in range(num_readers):
        with loader.eval_batches(
            drawn_source(9),
            global_batch_size=4,
            image_size=32,
            reader_index=reader_index,
            num_readers=num_readers,
        ) as batches:
            shards.append(list(batches))
    assert [len(shard) for shard in shards] == [3] * num_readers
    joined = [
        jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        for parts in zip(*shards, strict=True)
    ]
    assert examples(joined) == [*range(9), -1, -1, -1]
    valid = np.concatenate([batch.valid for batch in joined])
    np.testing.assert_array_equal(valid, np.arange(12) < 9)
    # By default canvas and padding have the sizes of the prepared dataset.
    assert joined[0].targets.id_map.shape == (4, 64, 80)
    assert joined[0].targets.labels.shape == (4, 4)
    assert joined[0].replaced is None


@pytest.mark.parametrize(
    ("task", "image_shape", "masks"),
    [
        ("", (4, 32, 32, 3), True),
        ("instance", (4, 32, 32, 3), False),
        ("semantic", (4, 2, 32, 32, 3), True),
    ],
)
def test_eval_batches_for_each_task(drawn_source, task, image_shape, masks):
    source = drawn_source(5)
    source.info = dataclasses.replace(source.info, max_aspect_ratio=2.0)
    with loader.eval_batches(
        source, global_batch_size=4, image_size=32, task=task
    ) as batches:
        first, last = batches
    for batch in (first, last):
        assert batch.image.shape == image_shape
        assert (batch.targets.id_map is not None) is masks
        assert batch.targets.mask_bits is None
    assert last.valid.tolist() == [True, False, False, False]


def test_eval_batches_may_take_the_first_examples_only(drawn_source):
    with loader.eval_batches(
        drawn_source(9), global_batch_size=4, image_size=32, num_examples=6
    ) as batches:
        assert examples(batches) == [0, 1, 2, 3, 4, 5, -1, -1]


def test_eval_batches_refuse_an_empty_split(drawn_source):
    with pytest.raises(ValueError, match="split 'train' of 'drawn' is empty"):
        loader.eval_batches(drawn_source(0), global_batch_size=4, image_size=32)
