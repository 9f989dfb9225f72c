"""Runs a model over a split and computes the metric of its predictions."""

import collections
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh, PartitionSpec

from eomt_jax.evaluation.tables import Results, summarize
from eomt_jax.parallel.batch import owned_rows, prefetch
from eomt_jax.parallel.mesh import BATCH_AXES
from eomt_jax.parallel.processes import gather_rows
from eomt_jax.pipeline.samples import Source
from eomt_jax.task_registry import get_task, task_names
from eomt_jax.types import Batch, DatasetInfo

OnBatch = Callable[[Batch, Any], None]


@runtime_checkable
class Predictor(Protocol):
    """A source of predictions to evaluate: predict.runner.Runner, or a baseline."""

    mesh: Mesh

    @property
    def task(self) -> str: ...

    def __call__(self, params: Any, batch: Batch) -> Any: ...


def evaluate(
    predictor: Predictor,
    params: Any,
    batches: Iterable[Batch],
    *,
    info: DatasetInfo,
    source: Source | None = None,
    confidence: bool = False,
    on_batch: Sequence[OnBatch] = (),
    progress: Callable[[int, float], None] | None = None,
) -> Results:
    """Evaluates a model on a split by the metric of the predictor's task, in percent.

    Panoptic and semantic quality is counted on the device, and the host adds up a few
    numbers for each class. Instances are matched on the host, each image by one
    process. Both are done for one batch while the device predicts the next.

    Args:
      predictor: called as predictor(params, batch).
      params: the model's parameters, on the predictor's mesh.
      batches: batches in host memory with the process's own rows, as pipeline.loader's
        eval_batches yields them for the predictor's task; they are closed at the end.
      info: class table of the dataset.
      source: the split; instances are compared with its records, and the other tasks
        don't need it.
      confidence: whether confidences are measured too, which the predictor then has.
      on_batch: functions that are called with every batch and its prediction, in host
        memory. Each row is in one process, and a process may have none.
      progress: called after each batch with the number of images done, over all
        processes, and images a second, which are 0 after the first batch, as it
        compiles.

    Returns:
      task: the name of the task.
      all, and for panoptic quality things and stuff: means over classes.
      per_class: a list in label order of dictionaries with name, is_thing and numbers.
        The numbers are those of the `compute` of the task's metric, such as
        PanopticQuality; None where nothing occurs.
      confusion: for the semantic task, pixels by target class (rows) and predicted
        class.
      confidence, reliability: if they are asked for, see MeanIoUWithConfidence.compute.
      num_images, seconds, images_per_second: those of all processes together.

    Raises:
      ValueError: there is no image, or no source where there must be one.
    """
    task = get_task(predictor.task)
    matched_on_host = task.overlapping
    metric_type = (task.confidence_metric if confidence else task.metric)(info)
    if matched_on_host and source is None:
        raise ValueError("instances are compared with a source's records: pass source")
    count = count_function(None if matched_on_host else metric_type, predictor.mesh)
    total: Any = None
    pending = collections.deque()
    start = time.monotonic()
    warm, done, done_cold, speed = start, 0, 0, 0.0

    def add_oldest() -> None:
        nonlocal total, warm, done, done_cold, speed
        (metric, num_images), batch, prediction = pending.popleft()
        if matched_on_host or on_batch:
            batch, prediction = owned_rows((batch, prediction))
        if matched_on_host:
            metric = metric_type.from_model_output(
                prediction=prediction,
                batch_valid=batch.valid,
                example_index=batch.example_index,
                source=source,
            )
        else:
            metric = metric.to_host()
        total = metric if total is None else total.merge(metric)
        for see in on_batch:
            see(batch, prediction)
        first, done = done == 0, done + int(num_images)
        if first:
            warm, done_cold = time.monotonic(), done
        else:
            speed = (done - done_cold) / (time.monotonic() - warm)
        if progress is not None:
            progress(done, speed)

    for batch in prefetch(batches, predictor.mesh):
        prediction = predictor(params, batch)
        pending.append((count(prediction, batch), batch, prediction))
        if len(pending) > 1:
            add_oldest()
    while pending:
        add_oldest()
    if not done:
        raise ValueError(
            "there was no image to evaluate; is the split empty, or num_images 0?"
        )
    if matched_on_host:
        total = jax.tree.map(gather_rows, total)
    seconds = time.monotonic() - start
    return {
        **summarize(predictor.task, total.compute(), info),
        "num_images": done,
        "seconds": seconds,
        "images_per_second": speed or done / seconds,
    }


def evaluation_task(task: str, info: DatasetInfo) -> str:
    """Returns the task asked for, or the dataset's own if that is "".

    Raises:
      ValueError: the dataset has no annotations to measure the task with, or there is
        no such task.
    """
    asked = get_task(task or info.task)
    asked.check_classes(info)
    chosen = asked.name
    measurable = [n for n in task_names() if info.task in get_task(n).measured_on]
    if chosen not in measurable:
        raise ValueError(
            f"{info.name} is annotated for {info.task} segmentation, which can't tell "
            f"how good {chosen} predictions are; task, or config.eval.task, may be "
            f"{' or '.join(measurable)}"
        )
    return chosen


@functools.lru_cache
def count_function(metric_type: Any, mesh: Mesh) -> Callable[[Any, Batch], Any]:
    """Returns a jitted function (prediction, batch) → (metric, number of images).

    Its results are for one batch and the same on every device. The metric is None if
    metric_type is, because predictions are matched on the host.
    """

    def count(prediction: Any, batch: Batch) -> Any:
        metric = None
        if metric_type is not None:
            metric = metric_type.from_model_output(
                prediction=prediction,
                targets=batch.targets,
                batch_valid=batch.valid,
                original_size=batch.original_size,
            )
        return jax.lax.psum((metric, batch.valid.sum()), BATCH_AXES)

    rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    return jax.jit(
        jax.shard_map(count, mesh=mesh, in_specs=rows, out_specs=whole, check_vma=False)
    )
