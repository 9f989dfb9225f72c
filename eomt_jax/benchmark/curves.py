"""Compares two loss curves, in numbers and as a picture.

The picture is drawn with Pillow, because matplotlib would be installed for it alone.
"""

import dataclasses
import json
import math

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from eomt_jax.pictures.name_plates import load_font

METRICS = ("loss", "loss/mask", "loss/dice", "loss/class")

Curve = Float[np.ndarray, " N"]

_SIZE = (960, 540)
# Pictures are drawn so many times larger and scaled down: Pillow's lines are jagged.
_ZOOM = 3
COLORS = ((32, 96, 192), (224, 112, 32))


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
    steps, _ = _read_records(ours, "loss")
    their_steps, _ = _read_records(theirs, "loss")
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
    steps, values = _read_records(workdir, metric)
    return np.repeat(values, np.diff(steps, prepend=0))


def _read_records(workdir: epath.PathLike, metric: str) -> tuple[np.ndarray, Curve]:
    path = epath.Path(workdir).expanduser() / "metrics.jsonl"
    if not path.exists():
        raise ValueError(f"{path} doesn't exist: give the folder of a run")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records = [record for record in records if metric in record]
    values = [math.nan if r[metric] is None else r[metric] for r in records]
    steps = [record["step"] for record in records]
    return np.asarray(steps, np.int64), np.asarray(values, np.float64)


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
    width, height = (side * _ZOOM for side in _SIZE)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    font = load_font(15 * _ZOOM)
    left, right, top, bottom = 0.07 * width, 0.98 * width, 0.1 * height, 0.9 * height
    curves = (comparison.ours, comparison.theirs)
    smooth = [moving_average(curve, comparison.window) for curve in curves]
    # The axis follows the smoothed curves, since single steps may be far off.
    limit = 1.15 * max(1e-9, *(float(curve.max()) for curve in smooth))
    last = max(2.0, comparison.num_steps)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = left + (step - 1) / (last - 1) * (right - left)
        return x, bottom - min(loss / limit, 1.0) * (bottom - top)

    for loss in _ticks(limit):
        x, y = place(1.0, loss)
        pen.line([(x, y), (right, y)], (228, 228, 228), _ZOOM)
        pen.text((x - 6 * _ZOOM, y), f"{loss:g}", (90, 90, 90), font, anchor="rm")
    for step in _ticks(float(last)):
        x, y = place(max(step, 1.0), 0.0)
        pen.text((x, y + 6 * _ZOOM), f"{step:g}", (90, 90, 90), font, anchor="mt")
    for curve, color in zip(curves, COLORS):
        pale = tuple(255 - (255 - channel) // 4 for channel in color)
        points = [place(i + 1.0, loss) for i, loss in enumerate(curve)]
        pen.line(points, pale, _ZOOM, joint="curve")
    for curve, color in zip(smooth, COLORS):
        points = [
            place(float(i + comparison.window), loss) for i, loss in enumerate(curve)
        ]
        pen.line(points, color, 2 * _ZOOM, joint="curve")
    end = (right, bottom - 6 * _ZOOM)
    pen.text(end, "optimizer steps", (90, 90, 90), font, anchor="rb")
    worst = comparison.deviations["loss"]
    title = (
        f"Total loss; moving average over {comparison.window} steps; "
        f"largest deviation {worst.largest:.1%} at step {worst.step}"
    )
    pen.text((left, 0.05 * height), title, (30, 30, 30), font, anchor="lm")
    for i, (name, color) in enumerate(zip(("eomt_jax", "transformers"), COLORS)):
        y = top + (14 + 24 * i) * _ZOOM
        x = right - 150 * _ZOOM
        pen.line([(x, y), (x + 28 * _ZOOM, y)], color, 3 * _ZOOM)
        pen.text((x + 36 * _ZOOM, y), name, (30, 30, 30), font, anchor="lm")
    return np.asarray(image.resize(_SIZE, Image.Resampling.LANCZOS))


def _ticks(limit: float) -> np.ndarray:
    """Returns 0 and up to about eight round numbers below `limit`."""
    power = 10.0 ** math.floor(math.log10(limit / 4))
    distance = next(power * m for m in (1, 2, 5, 10) if limit / (power * m) <= 8)
    return np.arange(0, limit, distance)
