"""All options of a training run: the tree that a recipe's ConfigDict is made from."""

import dataclasses

from ml_collections import ConfigDict

from eomt_jax.evaluation.options import ScoringOptions
from eomt_jax.losses.criterion import Criterion
from eomt_jax.options import MAX_STEPS, Choice, Text, Whole, option
from eomt_jax.pipeline.options import AugmentationOptions
from eomt_jax.training.checkpoints.save_schedule import CheckpointOptions
from eomt_jax.training.initialization import InitOptions
from eomt_jax.training.optimizer import OptimizerOptions
from eomt_jax.training.reporting.trackers import KINDS
from eomt_jax.training.schedules import AnnealingOptions

_EVERY_STEPS = Whole(0, MAX_STEPS)


@dataclasses.dataclass(frozen=True)
class LoggingOptions:
    """Metrics and pictures on the way of a run."""

    every_steps: int = option(
        50,
        _EVERY_STEPS,
        "Metrics are printed and written after every so many steps; 0 never does.",
    )
    picture_every_steps: int = option(
        1000,
        _EVERY_STEPS,
        "Predictions are drawn after every so many steps and at the end; 0 never does.",
    )
    num_pictures: int = option(
        4, Whole(0, 1000), "Each drawing shows this many images; 0 draws nothing."
    )
    tracker: str = option(
        "",
        Choice(("", *KINDS)),
        "Weights & Biases or MLflow shows the run too, with its config and pictures.",
    )
    project: str = option(
        "eomt_jax",
        Text(r"[\w][\w .-]{0,127}", "up to 128 letters, digits and _ - . or spaces"),
        "The tracker shows the run in this project, which MLflow calls an experiment.",
    )
    run_name: str = option(
        "",
        Text(r"[^/]{0,128}", "up to 128 letters without a /"),
        "The tracker shows the run by this name; empty takes the work directory's.",
    )


@dataclasses.dataclass(frozen=True)
class RunOptions(ScoringOptions):
    """A training run. Defaults are the published ones of COCO panoptic.

    Numbers: arXiv 2503.19108 and its release, tue-mps/eomt at 7bd19dd.
    """

    seed: int = option(
        0,
        Whole(0, 2**32 - 1),
        "Initial weights, order, augmentation and sampled points follow from it.",
    )
    batch_size: int = option(
        16,
        Whole(1, 2**20),
        "Each training step takes this many images, over all devices.",
    )
    accumulation: int = option(
        1,
        Whole(1, 2**20),
        "Each step goes through its batch in this many equal parts: the same step in "
        "less memory.",
    )
    total_steps: int = option(
        0,
        Whole(0, MAX_STEPS),
        "The run has this many steps, from which learning rates, warm-ups and mask "
        "annealing follow; 0 goes by epochs.",
    )
    epochs: int = option(
        12,
        Whole(0, 10**6),
        "The run passes over the split this many times, where total_steps is 0.",
    )
    augmentation: AugmentationOptions = dataclasses.field(
        default_factory=AugmentationOptions
    )
    init: InitOptions = dataclasses.field(default_factory=InitOptions)
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    annealing: AnnealingOptions = dataclasses.field(default_factory=AnnealingOptions)
    criterion: Criterion = dataclasses.field(default_factory=Criterion)
    checkpoint: CheckpointOptions = dataclasses.field(default_factory=CheckpointOptions)
    logging: LoggingOptions = dataclasses.field(default_factory=LoggingOptions)


def default_config() -> ConfigDict:
    """Returns the locked ConfigDict of all options, to change and to train with."""
    return ConfigDict(dataclasses.asdict(RunOptions())).lock()
