"""Options of an evaluation, and those of a run that its scores depend on."""

import dataclasses

from eomt_jax.models.registry import ModelOptions
from eomt_jax.options import MAX_STEPS, Flag, Name, Text, Whole, option
from eomt_jax.parallel.mesh import MeshOptions
from eomt_jax.pipeline.options import DatasetOptions
from eomt_jax.task_registry import task_names


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Evaluations during training and by eval.py."""

    every_steps: int = option(
        5000,
        Whole(0, MAX_STEPS),
        "Training evaluates after every so many steps and at its end; 0 never does.",
    )
    patience: int = option(
        0,
        Whole(0, 10**6),
        "Training stops after so many evaluations in a row that are no better than the "
        "best before; 0 never does. It needs checkpoint.keep_best.",
    )
    batch_size: int = option(
        16,
        Whole(1, 2**20),
        "Evaluation takes this many images at a time, over all devices.",
    )
    num_images: int = option(
        0,
        Whole(0, 2**31),
        "Evaluation takes this many images of the split, the first ones; 0 takes all.",
    )
    task: str = option(
        "",
        Name(lambda: ("", *task_names())),
        'This is what predictions are scored as; "" takes the dataset\'s own task.',
    )
    skip_padding: bool = option(
        False,
        Flag(),
        "Only the part of the network's input that shows a photograph is computed: "
        "faster, with slightly other numbers, and for one process.",
    )


@dataclasses.dataclass(frozen=True)
class ScoringOptions:
    """The options that `evaluation.checkpoint` reads, which every run has."""

    image_size: int = option(
        640,
        Whole(1, 16_384),
        "The network sees a square of this side in pixels, in training and evaluation.",
    )
    compilation_cache: str = option(
        "~/.cache/eomt_jax",
        Text(),
        'Compiled programs are kept in this folder between runs; "" keeps none.',
    )
    dataset: DatasetOptions = dataclasses.field(default_factory=DatasetOptions)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions)
    eval: EvalOptions = dataclasses.field(default_factory=EvalOptions)
