"""Times the network from images to masks and classes, beside other implementations."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eomt_jax.benchmark.flops import forward_flops
from eomt_jax.benchmark.timing import MatrixRate, Timing, format_ratios, take_turns
from eomt_jax.models.network import Network
from eomt_jax.predict.logits import last_logits
from eomt_jax.predict.token_grids import TokenGrids

OURS, PEAK = "eomt_jax", "matrix product"
# Our network on photographs of 4:3, without computing their padding.
UNPADDED = "eomt_jax, 4:3 without padding"

Rivals = Mapping[str, Callable[[np.ndarray], Callable[[], Any]]]


@dataclasses.dataclass(frozen=True)
class Inference:
    """Times of the network at one batch size.

    Attributes:
      batch_size: images in a call.
      timings: times by name: OURS, UNPADDED and the rivals.
      flops: FLOPs of a call of ours.
      peak: FLOPs a second of large matrix products, measured in the same rounds.
    """

    batch_size: int
    timings: Mapping[str, Timing]
    flops: float
    peak: float

    @property
    def share(self) -> float:
        """Share of the peak FLOPs that ours reaches, from 0 to 1."""
        return self.flops / self.timings[OURS].median / self.peak

    def images_per_second(self, name: str) -> float:
        return self.batch_size / self.timings[name].median


def measure(
    model: Network,
    params: Any,
    *,
    batch_sizes: Sequence[int],
    rounds: int,
    rivals: Rivals | None = None,
    seed: int = 0,
) -> list[Inference]:
    """Times the network alone, from pixels on the device to logits, without masking.

    UNPADDED computes the part of the input that shows photographs of 4:3, if the input
    is large enough to have such a part; the others compute the whole input.

    Args:
      model: the network.
      params: its parameters in float32, on the device.
      batch_sizes: batch sizes, each of which has a result.
      rounds: number of rounds, in each of which all take a turn.
      rivals: functions by name that make a job from images, uint8 [B, H, W, 3].
      seed: seed of the random images.
    """
    params = jax.jit(model.inference_params)(params)
    predict = jax.jit(
        lambda params, images: last_logits(model, params, images, cropped=True)
    )
    grids = TokenGrids.of(model)
    height, width = grids.smallest((grids.image_size * 3 // 4, grids.image_size))
    flops, rate = forward_flops(model, training=False), MatrixRate(model.dtype)
    rng = np.random.default_rng(seed)
    results = []
    for batch_size in batch_sizes:
        shape = (batch_size, *model.image_size, 3)
        images = rng.integers(0, 256, shape, np.uint8)
        on_device = jax.device_put(images)

        def ours(images: jax.Array = on_device) -> Any:
            return predict(params, images)

        part = jax.device_put(images[:, :height, :width])

        def unpadded(images: jax.Array = part) -> Any:
            return predict(params, images)

        jobs = {OURS: ours, PEAK: rate}
        if part.shape != images.shape:
            jobs[UNPADDED] = unpadded
        jobs |= {name: make(images) for name, make in (rivals or {}).items()}
        timings = take_turns(jobs, rounds=rounds)
        peak = rate.flops / timings.pop(PEAK).median
        results.append(Inference(batch_size, timings, batch_size * flops, peak))
    return results


def format_results(results: Sequence[Inference]) -> str:
    """Returns a table with a row for each job and batch size."""
    lines = [
        (
            "| inference | batch | latency | ± | images/s | ours is faster by "
            "| without padding by | compile |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for name, timing in result.timings.items():
            ratios = format_ratios(result.timings, name, OURS, UNPADDED)
            first = max(0.0, timing.first - timing.median)
            lines.append(
                f"| {name} | {result.batch_size} | {timing.median * 1e3:.0f} ms "
                f"| {timing.spread:.0%} | {result.images_per_second(name):.3g} "
                f"| {ratios} | {first:.1f} s |"
            )
    for result in results:
        lines.append(
            f"batch {result.batch_size}: {result.flops / 1e9:.4g} GFLOP in matrix "
            f"products, {result.share:.0%} of the {result.peak / 1e9:.4g} GFLOP/s that "
            "large products reached in the same rounds"
        )
    return "\n".join(lines)


def as_json(results: Sequence[Inference]) -> list[dict[str, Any]]:
    """Returns the numbers behind the table, with times in seconds."""
    return [
        {
            "batch_size": result.batch_size,
            "flops": result.flops,
            "peak_flops_per_second": result.peak,
            "share_of_peak": result.share,
            "timings": {
                name: {"first": timing.first, "seconds": list(timing.seconds)}
                for name, timing in result.timings.items()
            },
        }
        for result in results
    ]
