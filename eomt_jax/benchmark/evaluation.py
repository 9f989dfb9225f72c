"""Times a panoptic evaluation, from photographs on disk to the score, and its parts."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from eomt_jax.benchmark.timing import Timing, format_ratios, take_turns
from eomt_jax.evaluation.evaluator import evaluate
from eomt_jax.evaluation.tables import Results
from eomt_jax.models.network import Network
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.mesh import create_mesh
from eomt_jax.pipeline.loader import BatchIterator, eval_batches
from eomt_jax.pipeline.samples import Source
from eomt_jax.predict.logits import last_logits
from eomt_jax.predict.runner import Runner

OURS = "eomt_jax"
# Our evaluation with eval.skip_padding.
UNPADDED = "eomt_jax, without padding"
# Each of these programs does more of the evaluation; the differences are its parts.
READING, NETWORK, PREDICTION = "reading", "network", "prediction"
# Subtracting this from a logit makes the class impossible.
_NEVER = 100.0


@runtime_checkable
class Rival(Protocol):
    """Another implementation, which evaluates the same images with the same weights.

    Attributes:
      parts: seconds of each part of every call.
    """

    parts: list[dict[str, float]]

    def __call__(self) -> "Score": ...


@runtime_checkable
class MakeRivals(Protocol):
    """Makes rivals, by name, from our weights in host memory."""

    def __call__(
        self, params: Any, *, num_images: int, score_threshold: float
    ) -> Mapping[str, Rival]: ...


@dataclasses.dataclass(frozen=True)
class Score:
    """Panoptic quality of an evaluation, with its counts.

    Attributes:
      pq: mean over the classes that occur, in percent.
      tp: matched segments, over all classes.
      fp: predicted segments that match nothing.
      fn: target segments that nothing matches.
    """

    pq: float
    tp: int
    fp: int
    fn: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Times and scores of several evaluations of the same images.

    Attributes:
      num_images: images in a round.
      score_threshold: score that a query must exceed.
      timings: times by name: OURS, its parts, UNPADDED and the rivals.
      scores: scores by name: OURS, UNPADDED and the rivals.
      rival_parts: seconds of each part of each rival.
    """

    num_images: int
    score_threshold: float
    timings: Mapping[str, Timing]
    scores: Mapping[str, Score]
    rival_parts: Mapping[str, Mapping[str, float]]

    def parts(self) -> dict[str, dict[str, float]]:
        """Returns the seconds of the parts of each evaluation, by its name.

        Our evaluation reads while the device computes; the part of reading is the time
        that the device waits for it.
        """
        ours, reading, network, prediction = (
            self.timings[name].median for name in (OURS, READING, NETWORK, PREDICTION)
        )
        own = {
            "network": network,
            "post-processing": prediction - network,
            "waiting for images, and metric": ours - prediction,
            "reading alone": reading,
        }
        return {OURS: own, **{name: dict(x) for name, x in self.rival_parts.items()}}


def measure(
    model: Network,
    params: Any,
    source: Source,
    *,
    num_images: int,
    batch_size: int,
    rounds: int,
    num_kept: int = 12,
    num_threads: int = 0,
    make_rivals: MakeRivals | None = None,
) -> Evaluation:
    """Times the project's own evaluation on one device, reading included.

    The time of post-processing depends on how many queries exceed the score threshold.
    So that any weights can be timed, the threshold is set to a score that num_kept
    queries of an image exceed, about as many as with a trained EoMT. If too many
    queries predict "no object", the class head is changed so that none does.

    Args:
      model: the network.
      params: its parameters, on the first device.
      source: a split with panoptic annotations.
      num_images: how many images are evaluated, the first of the split.
      batch_size: largest batch of our evaluation; rows that only fill up a batch take
        as long as others.
      rounds: number of rounds, in each of which all take a turn.
      num_kept: queries above the threshold, on average over the images.
      num_threads: number of threads that read, see eval_batches.
      make_rivals: called with the weights that are evaluated.

    Raises:
      ValueError: the split is not annotated for panoptic segmentation.
    """
    info = source.info
    if info.task != "panoptic":
        raise ValueError(f"{info.name} is annotated for {info.task} segmentation alone")
    num_images = min(num_images, len(source))
    mesh = create_mesh(devices=jax.devices()[:1])
    apply = jax.jit(
        lambda params, images: last_logits(model, params, images, factored=True)
    )

    def read() -> BatchIterator:
        return eval_batches(
            source,
            global_batch_size=min(batch_size, num_images),
            image_size=model.image_size[0],
            num_examples=num_images,
            num_threads=num_threads,
        )

    with read() as batches:
        placed = [place_batch(batch, mesh) for batch in batches]
    valid = np.concatenate([batch.valid for batch in placed])
    logits = [np.asarray(apply(params, batch.image)[1]) for batch in placed]
    logits = np.concatenate(logits)[valid]
    threshold = _score_threshold(logits, num_kept)
    if threshold <= 0:
        bias = params["class_head"]["bias"].at[-1].add(-_NEVER)
        params = {**params, "class_head": {**params["class_head"], "bias": bias}}
        logits[..., -1] -= _NEVER
        threshold = _score_threshold(logits, num_kept)
    runner, unpadded = (
        Runner(
            model, info, mesh=mesh, score_threshold=threshold, skip_padding=skip_padding
        )
        for skip_padding in (False, True)
    )
    found: dict[str, Score] = {}

    def ours(name: str, runner: Runner) -> None:
        results = evaluate(runner, params, runner.regroup(read()), info=info)
        found[name] = _score(results)

    def read_all() -> None:
        with read() as batches:
            for _ in batches:
                pass

    made: Mapping[str, Rival] = {}
    if make_rivals is not None:
        made = make_rivals(
            jax.device_get(params), num_images=num_images, score_threshold=threshold
        )

    def theirs(name: str) -> Any:
        def job() -> None:
            found[name] = made[name]()

        return job

    jobs = {
        OURS: lambda: ours(OURS, runner),
        UNPADDED: lambda: ours(UNPADDED, unpadded),
        READING: read_all,
        NETWORK: lambda: [apply(params, batch.image) for batch in placed],
        PREDICTION: lambda: [runner(params, batch) for batch in placed],
        **{name: theirs(name) for name in made},
    }
    timings = take_turns(jobs, rounds=rounds)
    return Evaluation(
        num_images=num_images,
        score_threshold=threshold,
        timings=timings,
        scores=found,
        rival_parts={
            name: _medians(rival.parts[-rounds:]) for name, rival in made.items()
        },
    )


def _score_threshold(class_logits: np.ndarray, num_kept: int) -> float:
    """Returns a score that num_kept queries of an image exceed, on average.

    It lies halfway between two scores, and is 0 if fewer queries predict a class.
    """
    logits = class_logits.astype(np.float64)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    scores = np.where(probs.argmax(-1) < probs.shape[-1] - 1, probs.max(-1), 0.0)
    count = min(num_kept * len(scores), scores.size - 1)
    high, low = np.sort(scores, axis=None)[::-1][count - 1 : count + 1]
    return float((high + low) / 2) if high > 0 else 0.0


def _score(results: Results) -> Score:
    counts = {
        name: sum(row[name] for row in results["per_class"])
        for name in ("tp", "fp", "fn")
    }
    return Score(pq=results["all"]["pq"] or 0.0, **counts)


def _medians(calls: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(call[name] for call in calls) for name in calls[0]}


def format_result(result: Evaluation) -> str:
    """Returns tables of the evaluations and of the time of their parts."""
    lines = [
        (
            "| evaluation | an image | ± | images/s | ours is faster by "
            "| without padding by | compile | PQ |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, score in result.scores.items():
        timing = result.timings[name]
        ratios = format_ratios(result.timings, name, OURS, UNPADDED)
        lines.append(
            f"| {name} | {timing.median / result.num_images * 1e3:.0f} ms "
            f"| {timing.spread:.0%} | {result.num_images / timing.median:.3g} "
            f"| {ratios} | {max(0.0, timing.first - timing.median):.1f} s "
            f"| {score.pq:.3f} |"
        )
    lines += ["", "| part | of | an image | share |", "|---|---|---|---|"]
    for name, parts in result.parts().items():
        for part, seconds in parts.items():
            lines.append(
                f"| {part} | {name} | {seconds / result.num_images * 1e3:.1f} ms "
                f"| {seconds / result.timings[name].median:.0%} |"
            )
    lines += [
        f"{name}: {score.tp} segments matched, {score.fp} wrong, {score.fn} missed"
        for name, score in result.scores.items()
    ]
    lines.append(
        f"{result.num_images} images a round; queries above a score of "
        f"{result.score_threshold:.4g} count"
    )
    return "\n".join(lines)


def as_json(result: Evaluation) -> dict[str, Any]:
    """Returns the numbers behind the tables, with times in seconds for all images."""
    return {
        "num_images": result.num_images,
        "score_threshold": result.score_threshold,
        "scores": {
            name: dataclasses.asdict(score) for name, score in result.scores.items()
        },
        "parts": result.parts(),
        "timings": {
            name: {"first": timing.first, "seconds": list(timing.seconds)}
            for name, timing in result.timings.items()
        },
    }
