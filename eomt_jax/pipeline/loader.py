"""Reads samples ahead in the right order, with grain, and stacks them into batches.

The data position is one number: how many examples all processes together have seen.
Which example comes at a position, and how it is augmented, follows from the seed and
the position alone, so a run may continue from any position with another number of
processes, workers or threads. (grain's own iterator state doesn't survive a changed
number of workers.)
"""

import contextlib
import dataclasses
import math
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from absl import flags

from eomt_jax.pipeline.eval_samples import EvalSampler
from eomt_jax.pipeline.samples import (
    Sample,
    Source,
    TrainOptions,
    TrainSampler,
)
from eomt_jax.task_registry import get_task
from eomt_jax.types import Batch, Targets

# The length of the stream: more positions than any run sees, and it fits 64 bits.
_ENDLESS = 1 << 48
# A worker process goes on reading for this long after a SIGTERM.
_SECONDS_AFTER_SIGTERM = 60
# Smaller arrays are pickled between processes instead of taking a shared memory block.
_MIN_SHARED_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Shard:
    """A reader's rows of the global batches: one contiguous range in each.

    Attributes:
      global_batch_size: rows over all readers, a multiple of their number.
      reader_index: which of the ranges, from 0.
      num_readers: number of ranges in a batch.
      start: position of the first batch's first row.
    """

    global_batch_size: int
    reader_index: int = 0
    num_readers: int = 1
    start: int = 0

    def __post_init__(self):
        if self.global_batch_size < 1 or self.global_batch_size % self.num_readers:
            raise ValueError(
                f"a global batch of {self.global_batch_size} does not split over "
                f"{self.num_readers} readers: make config.batch_size (or "
                "config.eval.batch_size) a positive multiple of that"
            )
        if not 0 <= self.reader_index < self.num_readers:
            raise ValueError(f"reader {self.reader_index} of {self.num_readers}")
        if self.start < 0:
            raise ValueError(f"the data position must not be negative: {self.start}")

    @property
    def local_batch_size(self) -> int:
        return self.global_batch_size // self.num_readers

    def position(self, local: int) -> int:
        """Returns the position of this reader's example number `local`."""
        batch, row = divmod(local, self.local_batch_size)
        first = self.start + batch * self.global_batch_size
        return first + self.reader_index * self.local_batch_size + row


class BatchIterator(
    Iterator[Batch], contextlib.AbstractContextManager["BatchIterator", None]
):
    """Iterates over batches of NumPy arrays that hold this process's rows.

    Close it when it is no longer needed, or use it in a `with` statement.

    Attributes:
      position: of the first example not yet handed out, over all processes. A run
        that starts there continues this one.
    """

    def __init__(self, batches: grain.DatasetIterator, shard: Shard):
        self._open = [batches]
        self._step = shard.global_batch_size
        self.position = shard.start
        # Runs at the interpreter's exit too, where grain's own __del__ comes too late.
        self._finalizer = weakref.finalize(self, _close_all, self._open)

    def __next__(self) -> Batch:
        if not self._open:
            raise StopIteration
        batch = next(self._open[0])
        self.position += self._step
        return batch

    def close(self) -> None:
        """Stops reading ahead, and ends the threads and worker processes."""
        self._finalizer()

    def __exit__(self, *exception: object) -> None:
        self.close()


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
    while iterators:
        iterators.pop().close()


def train_batches(
    source: Source,
    *,
    global_batch_size: int,
    options: TrainOptions,
    seed: int,
    start_example: int = 0,
    reader_index: int = 0,
    num_readers: int = 1,
    num_threads: int = 0,
    num_workers: int = 0,
) -> BatchIterator:
    """Returns endless augmented batches; each epoch shuffles the whole split anew.

    An epoch's last partial batch is dropped; each epoch drops other examples.

    Args:
      source: the prepared split.
      global_batch_size: rows of all processes together.
      options: crop, augmentation, padding of the targets.
      seed: 0 or greater.
      start_example: data position to start from: `BatchIterator.position` of the run
        to continue, with the same seed and global_batch_size.
      reader_index: of this process, see parallel.mesh.Reader.
      num_readers: that share the batch, each with as many rows.
      num_threads: threads in each worker (or in this process); 0: one for each core.
      num_workers: worker processes; 0 reads in this process.

    Returns:
      Batches whose `replaced` marks photographs that stand in for others.
    """
    shard = Shard(global_batch_size, reader_index, num_readers, start_example)
    if seed < 0:
        raise ValueError(f"the seed must not be negative: {seed}")
    sampler = TrainSampler(
        source=source,
        options=options,
        seed=seed,
        epoch_length=epoch_length(len(source), global_batch_size),
    )
    return _batches(
        sampler, shard, _ENDLESS, num_threads=num_threads, num_workers=num_workers
    )


def eval_batches(
    source: Source,
    *,
    global_batch_size: int,
    image_size: int,
    task: str | None = None,
    max_targets: int = 0,
    canvas_size: tuple[int, int] | None = None,
    num_examples: int = 0,
    reader_index: int = 0,
    num_readers: int = 1,
    num_threads: int = 0,
    num_workers: int = 0,
) -> BatchIterator:
    """Returns batches that hold every example once, in order, over all processes.

    All processes get the same number of batches. Rows that only fill up the last batch
    have valid=False and example_index −1.

    Args:
      source: the prepared split.
      global_batch_size: rows of all processes together.
      image_size: side of the network's square input.
      task: what is evaluated; by default what the dataset's annotations are made for.
      max_targets: rows of the padded targets; 0: the most of any image prepared.
      canvas_size: of the id maps at original size; None: the largest photograph's.
      num_examples: only the first so many; 0: all.
      reader_index, num_readers, num_threads, num_workers: see train_batches.
    """
    shard = Shard(global_batch_size, reader_index, num_readers)
    if not len(source):
        raise ValueError(f"split {source.split!r} of {source.info.name!r} is empty")
    num_examples = min(num_examples or len(source), len(source))
    chosen = get_task(task or source.info.task)
    sampler = EvalSampler(
        source=source,
        num_examples=num_examples,
        image_size=image_size,
        canvas_size=canvas_size or source.info.max_image_size,
        max_targets=max_targets or max(1, source.info.max_segments),
        windows=chosen.windows,
        overlapping=chosen.overlapping,
    )
    num_batches = math.ceil(num_examples / global_batch_size)
    return _batches(
        sampler,
        shard,
        num_batches * shard.local_batch_size,
        num_threads=num_threads,
        num_workers=num_workers,
    )


def epoch_length(num_examples: int, global_batch_size: int) -> int:
    """Returns the positions in an epoch: its examples less the last partial batch.

    Raises:
      ValueError: there are fewer examples than one batch has.
    """
    if num_examples < global_batch_size:
        raise ValueError(
            f"{num_examples} examples don't fill one batch of {global_batch_size}: "
            "lower config.batch_size"
        )
    return num_examples // global_batch_size * global_batch_size


def stack_samples(samples: Sequence[Sample]) -> Batch:
    """Stacks samples into a batch; `replaced` is None for samples of an evaluation."""

    def stack(rows: Sequence) -> np.ndarray:
        return np.stack(rows)

    names = samples[0].keys() - {"targets"}
    fields = {name: stack([sample[name] for sample in samples]) for name in names}
    targets = {
        name: stack([sample["targets"][name] for sample in samples])
        for name in samples[0]["targets"]
    }
    return Batch(targets=Targets(**targets), **fields)


def _batches(
    sampler: Callable[[int], Sample],
    shard: Shard,
    num_local: int,
    *,
    num_threads: int,
    num_workers: int,
) -> BatchIterator:
    """Iterates over batches whose samples are read ahead one by one.

    So the threads share the work on a batch. Worker processes take every num_workers-th
    sample and are read in turn, which keeps the order whatever their number.
    """
    num_threads = num_threads or _num_cores()
    ahead = max(num_threads, math.ceil(2 * shard.local_batch_size / (num_workers or 1)))
    samples = (
        grain.MapDataset.range(num_local)
        .map(shard.position)
        .map(sampler)
        .to_iter_dataset(grain.ReadOptions(num_threads, prefetch_buffer_size=ahead))
    )
    if num_workers:
        if not flags.FLAGS.is_parsed():
            # grain reads absl flags of its own, even where nothing has parsed flags.
            flags.FLAGS.mark_as_parsed()
        samples = grain.experimental.WithOptionsIterDataset(
            samples, grain.experimental.DatasetOptions(min_shm_size=_MIN_SHARED_BYTES)
        ).mp_prefetch(
            grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2),
            worker_init_fn=_outlive_signals,
        )
    batches = samples.batch(shard.local_batch_size, batch_fn=stack_samples)
    # One finished batch waits while the last one is copied to the device.
    batches = grain.experimental.ThreadPrefetchIterDataset(
        batches, prefetch_buffer_size=1
    )
    return BatchIterator(iter(batches), shard)


def _outlive_signals(*_: int) -> None:
    """Lets a worker process go on reading while its run saves a checkpoint.

    Ctrl-C and a scheduler's SIGTERM come to all processes of a job, workers included.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The worker must end at some time: a run that doesn't close its workers waits for
    # them when it ends.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS_AFTER_SIGTERM))


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
