"""Evaluations and pictures, made between the steps of a run."""

from typing import Any, NamedTuple

import numpy as np
from etils import epath

from eomt_jax.evaluation.evaluator import evaluate, evaluation_task
from eomt_jax.evaluation.pictures import SpreadSource
from eomt_jax.evaluation.scoring import config_batches
from eomt_jax.evaluation.tables import (
    GROUPS,
    Results,
    format_table,
    headline,
    write_results,
)
from eomt_jax.parallel.batch import local_rows, place_batch
from eomt_jax.parallel.processes import gather_rows, is_main
from eomt_jax.pictures.comparison import (
    draw_comparison,
    evaluation_pictures,
    write_picture,
)
from eomt_jax.pipeline.loader import BatchIterator
from eomt_jax.pipeline.records import open_split
from eomt_jax.pipeline.samples import Source
from eomt_jax.predict.runner import Runner
from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.training.guards import StopRequest
from eomt_jax.training.reporting.logging import Scalars, say
from eomt_jax.training.reporting.metrics_writer import MetricsWriter
from eomt_jax.training.setup import Setup
from eomt_jax.types import Batch


class Review(NamedTuple):
    """The evaluation and picture to make after a step."""

    evaluation: bool
    picture: bool


def due(run: Setup, step: int) -> Review:
    """Returns what the config asks for after `step`."""
    config = run.config

    def at_every(num_steps: int) -> bool:
        last = step == run.total_steps
        return num_steps > 0 and step > 0 and (step % num_steps == 0 or last)

    pictures = config.logging.num_pictures > 0
    return Review(
        evaluation=at_every(config.eval.every_steps),
        picture=pictures and at_every(config.logging.picture_every_steps),
    )


def patience_is_over(run: Setup, step: int, best: tuple[int, Score] | None) -> bool:
    """Returns whether the run stops early after the evaluations up to `step`.

    Args:
      run: whose config says how many evaluations may be no better than the best.
      step: steps done.
      best: step and score of the best checkpoint, if there is one.
    """
    config = run.config.eval
    if not config.patience or best is None or step >= run.total_steps:
        return False
    num_since = step // config.every_steps - best[0] // config.every_steps
    return num_since >= config.patience


def left_out(run: Setup, workdir: epath.Path, step: int) -> Review:
    """Returns what was due after `step` and is missing, as the run was stopped."""
    review = due(run, step)
    missing = Review(
        evaluation=review.evaluation and not _evaluation_path(workdir, step).exists(),
        picture=review.picture and not _picture_path(workdir, step).exists(),
    )
    # The first process's view of the folder is everyone's.
    row = np.array([missing]) if is_main() else np.zeros((0, 2), bool)
    return Review(*gather_rows(row)[0].tolist())


class Reviewer:
    """Makes the reviews of one run, and tells and writes what comes out."""

    def __init__(
        self, run: Setup, workdir: epath.Path, writer: MetricsWriter, stop: StopRequest
    ):
        """Opens the evaluation split if the run will need it; see _Evaluation."""
        self._evaluation = _Evaluation(run) if any(due(run, run.total_steps)) else None
        model = run.initialization.model
        self._is_masked = getattr(model, "masked_inference", False)
        self._total_steps = run.total_steps
        self._workdir = workdir
        self._writer = writer
        self._stop = stop

    def make(self, review: Review, step: int, params: Any) -> tuple[Score | None, bool]:
        """Makes what `review` says; leaves it as soon as the run is asked to stop.

        Returns:
          The evaluation's score, None without one; and whether it was left.
        """
        score = None
        if self._evaluation is None:
            return None, False
        if review.evaluation:
            results = self._evaluation.evaluate(params, stop=self._stop)
            if results is None:
                return None, True
            score = result_score(results)
            self._writer.scalars(step, result_scalars(results))
            how = "with" if self._is_masked else "without"
            say(f"Evaluation after step {step}, {how} masked attention:")
            say(format_table(results, per_class=step == self._total_steps))
            if is_main():
                write_results(results, _evaluation_path(self._workdir, step))
        if review.picture:
            picture = self._evaluation.draw(params)
            if picture is not None:
                self._writer.image(step, "predictions", picture)
                write_picture(_picture_path(self._workdir, step), picture)
        return score, False


def _evaluation_path(workdir: epath.Path, step: int) -> epath.Path:
    return workdir / f"evaluations/{step:08d}.json"


def _picture_path(workdir: epath.Path, step: int) -> epath.Path:
    return workdir / f"pictures/{step:08d}.png"


class _AskedToStop(Exception):
    """Leaves an evaluation."""


class _Evaluation:
    """Scores the network on the evaluation split, and draws some of its images."""

    def __init__(self, setup: Setup):
        """Opens the split; the network compiles when first called.

        Raises:
          ValueError: the split's annotations can't tell how good it is at the task.
        """
        data = setup.config.dataset
        self._config = setup.config
        # Without an evaluation split there are pictures alone, of training photographs.
        has_split = data.eval_split.partition("[")[0] in setup.info.num_examples
        split = data.eval_split if has_split else data.train_split
        self._source = open_split(data.data_dir, data.name, split)
        info = self._source.info
        self._runner = Runner(
            setup.initialization.model,
            info,
            task=evaluation_task(setup.config.eval.task, info),
            mesh=setup.mesh,
            skip_padding=setup.config.eval.skip_padding,
        )
        self._pictured: Batch | None = None
        self._pictured_source: Source = self._source

    def evaluate(self, params: Any, *, stop: StopRequest) -> Results | None:
        """Returns evaluator.evaluate's results; None if the run is asked to stop."""

        def ask(_: int, __: float) -> None:
            if stop.agreed():
                raise _AskedToStop

        try:
            num_images = self._config.eval.num_images
            with self._batches(num_images, self._source) as batches:
                return evaluate(
                    self._runner,
                    params,
                    self._runner.regroup(batches),
                    info=self._source.info,
                    source=self._source,
                    progress=ask,
                )
        except _AskedToStop:
            return None

    def draw(self, params: Any) -> np.ndarray | None:
        """Draws predictions beside targets, the same images each time; uint8 [H, W, 3].

        The images are spread over the split.

        All processes predict, the first one alone draws: the others get None.
        """
        num_pictures = self._config.logging.num_pictures
        if self._pictured is None:
            # A single batch is drawn.
            count = max(1, min(num_pictures, self._config.eval.batch_size))
            self._pictured_source = SpreadSource(self._source, count)
            with self._batches(count, self._pictured_source) as batches:
                self._pictured = next(batches)
        batch = self._pictured
        prediction = self._runner(params, place_batch(batch, self._runner.mesh))
        prediction = local_rows(prediction)
        if not is_main():
            return None
        pictures = evaluation_pictures(
            batch,
            prediction,
            self._pictured_source,
            task=self._runner.task,
            max_pictures=num_pictures,
        )
        return draw_comparison(pictures, self._source.info)

    def _batches(self, num_images: int, source: Source) -> BatchIterator:
        return config_batches(
            self._config,
            source,
            task=self._runner.task,
            num_images=num_images,
            mesh=self._runner.mesh,
        )


def result_scalars(results: Results) -> Scalars:
    """Returns an evaluation's means by name, and by group if there are several."""
    by_group = sum(group in results for group in GROUPS) > 1
    return {
        f"eval/{name}_{group}" if by_group else f"eval/{name}": value
        for group in GROUPS
        for name, value in results.get(group, {}).items()
        if name != "num_classes" and value is not None
    }


def result_score(results: Results) -> Score | None:
    """Returns the score that checkpoints are compared by; None if nothing was measured."""
    name, value = headline(results)
    return None if value is None else Score(name, value)
