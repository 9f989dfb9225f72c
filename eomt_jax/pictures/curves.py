"""Draws curves over the steps of runs, with Pillow as all pictures here."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from eomt_jax.pictures.name_plates import load_font

# Each line's colour, in their order.
COLORS = (
    *((32, 96, 192), (224, 112, 32), (44, 140, 74), (190, 40, 110)),
    *((122, 84, 196), (20, 150, 164), (140, 92, 44), (96, 96, 96)),
)
_WIDTH, _PANEL, _LEGEND_ROW = 960, 440, 26
_INK, _SOFT, _GRID = (30, 30, 30), (90, 90, 90), (228, 228, 228)
# Pictures are drawn so many times larger and scaled down: Pillow's lines are jagged.
_ZOOM = 3
# A line of fewer points than this shows each of them.
_FEW = 50

Points = Float[np.ndarray, " N"]
Pale = Float[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of one run.

    Attributes:
      name: the same in all panels; it determines the colour.
      steps: steps in rising order.
      values: finite numbers at these steps.
      pale_steps: steps of a pale curve behind it, from which it was smoothed.
      pale_values: its values, which may lie outside of the axis.
    """

    name: str
    steps: Points
    values: Points
    pale_steps: Pale = dataclasses.field(default_factory=lambda: np.zeros(0))
    pale_values: Pale = dataclasses.field(default_factory=lambda: np.zeros(0))


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves of one number, under a title."""

    title: str
    lines: Sequence[Line]


def draw_curves(
    panels: Sequence[Panel], names: Sequence[str]
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws panels above one another, and the names with their colours below.

    Args:
      panels: curves, each of which has at least one point.
      names: names of all lines, at most as many as there are COLORS.
    """
    width = _WIDTH * _ZOOM
    height = (_PANEL * len(panels) + _LEGEND_ROW * len(names) + 16) * _ZOOM
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    font = load_font(15 * _ZOOM)
    colors = dict(zip(names, COLORS))
    last = max(line.steps[-1] for panel in panels for line in panel.lines)
    for i, panel in enumerate(panels):
        _draw_panel(pen, panel, i * _PANEL * _ZOOM, colors, max(2.0, float(last)))
    for i, name in enumerate(names):
        y = (_PANEL * len(panels) + _LEGEND_ROW * (i + 0.5)) * _ZOOM
        x = 0.07 * width
        pen.line([(x, y), (x + 28 * _ZOOM, y)], colors[name], 3 * _ZOOM)
        pen.text((x + 38 * _ZOOM, y), name, _INK, font, anchor="lm")
    return np.asarray(image.resize((_WIDTH, height // _ZOOM), Image.Resampling.LANCZOS))


def _draw_panel(
    pen: ImageDraw.ImageDraw,
    panel: Panel,
    begin: int,
    colors: dict[str, tuple[int, int, int]],
    last: float,
) -> None:
    """Draws one panel from the row `begin` on; the axis of steps ends at `last`."""
    font = load_font(15 * _ZOOM)
    left, right = 0.07 * _WIDTH * _ZOOM, 0.98 * _WIDTH * _ZOOM
    top, bottom = begin + 0.12 * _PANEL * _ZOOM, begin + 0.88 * _PANEL * _ZOOM
    # The axis follows the strong curves, since single steps may be far off.
    low, high = _limits(np.concatenate([line.values for line in panel.lines]))

    def place(steps: Points, values: Points) -> list[tuple[float, float]]:
        x = left + steps / last * (right - left)
        shares = np.clip((values - low) / (high - low), 0, 1)
        return list(zip(x.tolist(), (bottom - shares * (bottom - top)).tolist()))

    for value in _ticks(low, high):
        ((x, y),) = place(np.zeros(1), np.array([value]))
        pen.line([(x, y), (right, y)], _GRID, _ZOOM)
        pen.text((x - 6 * _ZOOM, y), f"{value:g}", _SOFT, font, anchor="rm")
    for step in _ticks(0.0, last):
        ((x, _),) = place(np.array([step]), np.zeros(1))
        pen.text((x, bottom + 6 * _ZOOM), f"{step:g}", _SOFT, font, anchor="mt")
    end = (right, bottom - 6 * _ZOOM)
    pen.text(end, "optimizer steps", _SOFT, font, anchor="rb")
    for line in panel.lines:
        pale = tuple(255 - (255 - channel) // 4 for channel in colors[line.name])
        points = place(line.pale_steps, line.pale_values)
        pen.line(points, pale, _ZOOM, joint="curve")
    for line in panel.lines:
        points, color = place(line.steps, line.values), colors[line.name]
        pen.line(points, color, 2 * _ZOOM, joint="curve")
        if len(points) < _FEW:
            for point in points:
                pen.circle(point, 3 * _ZOOM, color)
    middle = (left, begin + 0.06 * _PANEL * _ZOOM)
    pen.text(middle, panel.title, _INK, font, anchor="lm")


def _limits(values: Points) -> tuple[float, float]:
    """Returns the ends of an axis: from 0 unless all values are far from it."""
    low, high = float(values.min()), float(values.max())
    if 0 <= low <= high / 2:
        low = 0.0
    margin = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return (low if low == 0 else low - margin), high + margin


def _ticks(low: float, high: float) -> np.ndarray:
    """Returns up to about eight round numbers from `low` to below `high`."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / 4))
    distance = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 8)
    return np.arange(math.ceil(low / distance), math.ceil(high / distance)) * distance
