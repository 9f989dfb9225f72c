"""Compares two loss curves, in numbers and as a picture."""

import dataclasses
import json

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from eomt_jax.pictures.curves import Line, Panel, draw_curves
from eomt_jax.training.reporting.recorded import read_records, values_of

METRICS = ("loss", "loss/mask", "loss/dice", "loss/class")

Curve = Float[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Deviation:
    """Difference of one metric's smoothed curve from the reference, relative to it.

    Attributes:
      largest: largest difference over all steps that have a full window.
      step: step of the largest difference (the window's last step).
      mean: mean difference over the same steps.
      ours: our smoothed value at the last step.
      theirs: the reference's smoothed value at that step.
    """

    largest: float
    step: int
    mean: float
    ours: float
    theirs: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of two runs over the steps that both have.

    Attributes:
      num_steps: number of these steps.
      window: steps in the moving average.
      deviations: the deviation of each metric that both have.
      ours: our loss at each step, as a mean over the steps of its record.
      theirs: the reference's loss, as means over the same steps.
    """

    num_steps: int
    window: int
    deviations: dict[str, Deviation]
    ours: Curve
    theirs: Curve


def compare(
    ours: epath.PathLike, theirs: epath.PathLike, *, window: int = 0
) -> Comparison:
    """Compares the smoothed metrics.jsonl of two folders.

    Args:
      ours: workdir of train.py.
      theirs: workdir of the reference.
      window: steps in the moving average; 0 takes a tenth of the common steps.
    """
    steps, _ = values_of(read_records(ours), "loss")
    their_steps, _ = values_of(read_records(theirs), "loss")
    for folder, found in ((ours, steps), (theirs, their_steps)):
        if not len(found):
            raise ValueError(f"no loss in {epath.Path(folder) / 'metrics.jsonl'}")
    steps = steps[steps <= their_steps[-1]]
    if not len(steps):
        raise ValueError(
            f"{theirs} ends at step {their_steps[-1]}, before the first record of {ours}"
        )
    num_steps = int(steps[-1])
    window = window or max(1, num_steps // 10)
    if not 1 <= window <= num_steps:
        raise ValueError(
            f"a window of {window} steps is longer than the {num_steps} common steps"
        )
    deviations, losses = {}, None
    for metric in METRICS:
        pair = [read_curve(folder, metric)[:num_steps] for folder in (ours, theirs)]
        if any(len(curve) < num_steps for curve in pair):
            continue
        # Our record is a mean over steps, so the reference is averaged over the same.
        pair = [_mean_between(curve, steps) for curve in pair]
        deviations[metric] = deviation(*pair, window=window)
        losses = losses or pair
    assert losses is not None
    return Comparison(num_steps, window, deviations, *losses)


def read_curve(workdir: epath.PathLike, metric: str) -> Curve:
    """Returns a metric at each step.

    A record is the mean over the steps since the record before it, so each of these
    steps gets its value. Records without the metric (evaluations) are skipped.
    """
    steps, values = values_of(read_records(workdir), metric)
    return np.repeat(values, np.diff(steps, prepend=0))


def _mean_between(curve: Curve, steps: np.ndarray) -> Curve:
    """Returns a curve of the means between each of `steps` and the next."""
    lengths = np.diff(steps, prepend=0)
    means = np.add.reduceat(curve, steps - lengths) / lengths
    return np.repeat(means, lengths)


def moving_average(curve: Curve, window: int) -> Float[np.ndarray, " M"]:
    """Returns means over `window` steps; the first is the mean of steps 1 … window."""
    return np.convolve(curve, np.full(window, 1 / window), mode="valid")


def deviation(ours: Curve, theirs: Curve, *, window: int) -> Deviation:
    """Returns how far our smoothed curve is from theirs."""
    ours, theirs = moving_average(ours, window), moving_average(theirs, window)
    relative = np.abs(ours - theirs) / np.abs(theirs)
    worst = int(relative.argmax())
    return Deviation(
        largest=float(relative[worst]),
        step=worst + window,
        mean=float(relative.mean()),
        ours=float(ours[-1]),
        theirs=float(theirs[-1]),
    )


def write_comparison(comparison: Comparison, folder: epath.PathLike) -> str:
    """Writes comparison.json and comparison.png; returns a table to print."""
    folder = epath.Path(folder).expanduser()
    summary = {
        "num_steps": comparison.num_steps,
        "window": comparison.window,
        "deviations": {
            metric: dataclasses.asdict(value)
            for metric, value in comparison.deviations.items()
        },
    }
    (folder / "comparison.json").write_text(json.dumps(summary, indent=2) + "\n")
    with (folder / "comparison.png").open("wb") as file:
        Image.fromarray(draw(comparison)).save(file, "PNG", optimize=True)
    lines = [
        f"{comparison.num_steps} steps, moving average over {comparison.window}",
        "            largest deviation  at step     mean  last: ours  reference",
    ]
    for metric, d in comparison.deviations.items():
        lines.append(
            f"{metric:<12}{d.largest:>17.2%}  {d.step:>7}  {d.mean:>7.2%}"
            f"{d.ours:>12.3f}{d.theirs:>11.3f}"
        )
    return "\n".join([*lines, f"Drawn in {folder / 'comparison.png'}"])


def draw(comparison: Comparison) -> UInt8[np.ndarray, "H W 3"]:
    """Draws both losses over the steps, in pale colours, and smoothed in strong."""
    curves = {"eomt_jax": comparison.ours, "transformers": comparison.theirs}
    steps = np.arange(1.0, comparison.num_steps + 1)
    lines = [
        Line(
            name,
            steps[comparison.window - 1 :],
            moving_average(curve, comparison.window),
            pale_steps=steps,
            pale_values=curve,
        )
        for name, curve in curves.items()
    ]
    worst = comparison.deviations["loss"]
    title = (
        f"Total loss; moving average over {comparison.window} steps; "
        f"largest deviation {worst.largest:.1%} at step {worst.step}"
    )
    return draw_curves([Panel(title, lines)], list(curves))
