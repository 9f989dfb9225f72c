"""Compares all steps from ViT-Adapter + Mask2Former down to EoMT in one run."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from eomt_jax.benchmark.flops import forward_flops
from eomt_jax.benchmark.timing import Timing, take_turns
from eomt_jax.models.ladder import STEPS, Published
from eomt_jax.models.network import Network
from eomt_jax.models.registry import ModelOptions, create_network
from eomt_jax.ops import resize
from eomt_jax.predict.runner import last_logits
from eomt_jax.training.state import variable_shapes
from eomt_jax.trees import from_variables


@dataclasses.dataclass(frozen=True)
class StepResult:
    """Numbers of one step.

    Attributes:
      title: what the network consists of.
      params: number of parameters.
      gflops: billions of multiply-adds in matrix products, for an image.
      batch_size: images in a call.
      timing: times of a call.
      published: the paper's row; None where it has none.
    """

    title: str
    params: int
    gflops: float
    batch_size: int
    timing: Timing
    published: Published | None

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.timing.median


def create_steps(
    options: ModelOptions, *, num_classes: int, image_size: tuple[int, int]
) -> list[Network]:
    """Returns the network of every step.

    Args:
      options: the fields of config.model of EoMT, such as the variant and the queries.
      num_classes: K, without "no object".
      image_size: (height, width) in pixels.
    """
    return [
        create_network(
            **{**vars(options), **step.model},
            num_classes=num_classes,
            image_size=image_size,
        )
        for step in STEPS
    ]


def count_params(model: Network) -> int:
    """Returns the number of a network's parameters, without batch statistics."""
    leaves = jax.tree.leaves(variable_shapes(model)["params"])
    return sum(leaf.size for leaf in leaves)


def count_gflops(model: Network) -> float:
    """Returns billions of multiply-adds in matrix products, for an image.

    The paper's count has other numbers for resizing masks, which are matrix products
    here alone; they are left out.
    """
    return forward_flops(model, training=False, without=resize.SCOPE) / 2e9


def measure(
    options: ModelOptions,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    batch_size: int,
    rounds: int,
    seed: int = 0,
) -> list[StepResult]:
    """Times all steps with random weights, from pixels on the device to logits.

    In each round every network takes a turn, so a machine's changes of speed affect all
    alike. The parameters of all networks are on the device together.

    Args:
      options, num_classes, image_size: see `create_steps`.
      batch_size: images in a call.
      rounds: number of rounds.
      seed: seed of weights and images.
    """
    models = create_steps(options, num_classes=num_classes, image_size=image_size)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch_size, *image_size, 3), np.uint8)
    jobs = {
        step.title: _job(model, jax.device_put(images), seed)
        for step, model in zip(STEPS, models)
    }
    timings = take_turns(jobs, rounds=rounds)
    return [
        StepResult(
            step.title,
            count_params(model),
            count_gflops(model),
            batch_size,
            timings[step.title],
            step.published.get(options.variant),
        )
        for step, model in zip(STEPS, models)
    ]


def _job(model: Network, images: jax.Array, seed: int) -> Any:
    def create(key: jax.Array, images: jax.Array) -> Any:
        params = from_variables(model.init(key, images[:1]))
        return model.inference_params(params)

    params = jax.jit(create)(jax.random.key(seed), images)
    predict = jax.jit(functools.partial(last_logits, model))
    return lambda: predict(params, images)


def format_results(results: Sequence[StepResult]) -> str:
    """Returns a table with a row for each step, beside the paper's numbers."""
    lines = [
        (
            "| step | parameters | GFLOPs | images/s | ± | of step 0 "
            "| published: parameters | GFLOPs | images/s | of step 0 | PQ |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    first = results[0]
    for number, result in enumerate(results):
        theirs = "| | | | |"
        if result.published and first.published:
            row = result.published
            ratio = row.images_per_second / first.published.images_per_second
            theirs = (
                f"{row.params}M | {row.gflops} | {row.images_per_second} "
                f"| {ratio:.2f} × | {row.pq}"
            )
        lines.append(
            f"| ({number}) {result.title} | {result.params:,} | {result.gflops:.1f} "
            f"| {result.images_per_second:.3g} | {result.timing.spread:.0%} "
            f"| {result.timing.ratio_to(first.timing):.2f} × | {theirs} |"
        )
    return "\n".join(lines)


def as_json(results: Sequence[StepResult]) -> list[dict[str, Any]]:
    """Returns the numbers behind the table, with times in seconds."""
    return [dataclasses.asdict(result) for result in results]
