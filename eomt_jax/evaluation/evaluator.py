"""Runs a model over a split and sums up how good its segmentations are."""

import collections
import functools
import json
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax
from etils import epath
from jax.sharding import Mesh, PartitionSpec

from eomt_jax.evaluation.panoptic_quality import PanopticQuality
from eomt_jax.inference.panoptic import PanopticPrediction
from eomt_jax.parallel.batch import prefetch
from eomt_jax.parallel.mesh import BATCH_AXES
from eomt_jax.types import Batch, DatasetInfo

Results = dict[str, Any]


@runtime_checkable
class Predictor(Protocol):
    """What can be evaluated: inference.runner.Runner, or a baseline."""

    mesh: Mesh

    def __call__(self, params: Any, batch: Batch) -> PanopticPrediction: ...


def evaluate(
    predictor: Predictor,
    params: Any,
    batches: Iterable[Batch],
    *,
    info: DatasetInfo,
    progress: Callable[[int, float], None] | None = None,
) -> Results:
    """Panoptic quality of a model on a split, in percent.

    Everything is counted on the device; the host adds up a few numbers per class in
    float64, one batch behind, so that the device never waits for it.

    Args:
      predictor: called as predictor(params, batch).
      params: the model's, on the predictor's mesh.
      batches: in host memory, each process its own rows, as pipeline.loader's
        eval_batches yields them; closed at the end.
      info: of the data set that the batches come from.
      progress: called after each batch with the number of images done, over all
        processes, and images a second: 0 after the first batch, which compiles.

    Returns:
      all, things, stuff: {pq, sq, rq, num_classes}; None where no class occurs.
      per_class: a list in label order of {name, is_thing, pq, sq, rq, tp, fp, fn}.
      num_images, seconds, images_per_second (of all processes).
    """
    metric_type = PanopticQuality.with_classes(info.is_thing)
    count = _count_function(metric_type, predictor.mesh)
    total = metric_type.empty().to_host()
    pending = collections.deque()
    start = time.monotonic()
    warm, done, done_cold, speed = start, 0, 0, 0.0

    def add_oldest() -> None:
        nonlocal total, warm, done, done_cold, speed
        metric, num_images = pending.popleft()
        total = total.merge(metric.to_host())
        first, done = done == 0, done + int(num_images)
        if first:
            warm, done_cold = time.monotonic(), done
        else:
            speed = (done - done_cold) / (time.monotonic() - warm)
        if progress is not None:
            progress(done, speed)

    for batch in prefetch(batches, predictor.mesh):
        pending.append(count(predictor(params, batch), batch))
        if len(pending) > 1:
            add_oldest()
    while pending:
        add_oldest()
    if not done:
        raise ValueError(
            "there was no image to evaluate; is the split empty, or num_images 0?"
        )
    seconds = time.monotonic() - start
    return {
        **_summary(total.compute(), info),
        "num_images": done,
        "seconds": seconds,
        "images_per_second": speed or done / seconds,
    }


@functools.lru_cache
def _count_function(metric_type: type[PanopticQuality], mesh: Mesh) -> Callable:
    """Counts of one batch and its number of images, the same on every device."""

    def count(prediction: PanopticPrediction, batch: Batch) -> Any:
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


def _summary(computed: dict[str, Any], info: DatasetInfo) -> Results:
    per_class = computed["per_class"]
    groups = {
        group: {name: _none_if_nan(value) for name, value in computed[group].items()}
        for group in ("all", "things", "stuff")
    }
    classes = []
    for i, row in enumerate(info.classes):
        quality = {n: _none_if_nan(float(per_class[n][i])) for n in ("pq", "sq", "rq")}
        counts = {n: int(per_class[n][i]) for n in ("tp", "fp", "fn")}
        classes.append(
            {"name": row.name, "is_thing": row.is_thing, **quality, **counts}
        )
    return {**groups, "per_class": classes}


def _none_if_nan(value: Any) -> Any:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def format_table(results: Results, *, per_class: bool = True) -> str:
    """The results as text: classes that occur by falling PQ, then the means."""
    header = f"{'':<28}{'PQ':>7}{'SQ':>7}{'RQ':>7}"
    lines = []
    if per_class:
        lines.append(f"{header}{'found':>8}{'false':>7}{'missed':>8}")
        rows = [row for row in results["per_class"] if row["pq"] is not None]
        for row in sorted(rows, key=lambda row: -row["pq"]):
            kind = "thing" if row["is_thing"] else "stuff"
            counts = f"{row['tp']:>8}{row['fp']:>7}{row['fn']:>8}"
            lines.append(f"{row['name'][:21]:<22}{kind:<6}{_numbers(row)}{counts}")
        lines.append("")
    lines.append(f"{header}{'classes':>9}")
    for group in ("all", "things", "stuff"):
        row = results[group]
        lines.append(f"{group:<28}{_numbers(row)}{row['num_classes']:>9}")
    lines.append(
        f"{results['num_images']} images, {results['images_per_second']:.1f} a second"
    )
    return "\n".join(lines)


def _numbers(row: Results) -> str:
    values = (row["pq"], row["sq"], row["rq"])
    return "".join(f"{'–':>7}" if v is None else f"{v:>7.1f}" for v in values)


def write_results(results: Results, path: epath.PathLike) -> None:
    """Writes JSON so that a reader finds the old file or the whole new one."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)
