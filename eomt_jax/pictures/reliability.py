"""Draws how often pixels are right, by their confidence.

Legend: H W pixels of the picture, n bins.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from eomt_jax.pictures.name_plates import load_font

_INK, _PAPER, _LINES = (32, 35, 42), (255, 255, 255), (226, 229, 234)
_BAR, _GAP = (33, 97, 164), (240, 112, 53)
_SIDE, _LEFT, _TOP, _COUNTS = 450, 64, 44, 70
"""Sides of the diagram, its margins, and the height of the counts below it."""
_SPACE = 46


def draw_reliability(
    pixels: Sequence[int],
    right: Sequence[int],
    confidence: Sequence[float],
    *,
    title: str,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws a bar for each bin, as high as the share of right pixels in it.

    A line across each bar is the pixels' mean confidence, which equals the share if
    confidences are calibrated; the gap between the two is coloured. Below are the
    numbers of pixels.

    Args:
      pixels: number in each bin; the bins are equal parts of 0 to 1.
      right: those whose class is right.
      confidence: sums of their confidences.
      title: says what was measured: a dataset, a split.
    """
    width, height = _LEFT + _SIDE + 24, _TOP + _SIDE + _SPACE + _COUNTS + 50
    page = Image.new("RGB", (width, height), _PAPER)
    draw, font, small = ImageDraw.Draw(page), load_font(15), load_font(13)
    bottom = _TOP + _SIDE
    floor = bottom + _SPACE + _COUNTS
    for tick in range(0, 101, 25):
        x, y = _LEFT + _SIDE * tick / 100, bottom - _SIDE * tick / 100
        draw.line((_LEFT, y, _LEFT + _SIDE, y), _LINES)
        draw.text((_LEFT - 8, y), str(tick), _INK, small, "rm")
        draw.text((x, bottom + 12), str(tick), _INK, small, "mm")
    step = _SIDE / len(pixels)
    for i, (number, hits, total) in enumerate(
        zip(pixels, right, confidence, strict=True)
    ):
        if not number:
            continue
        left, end = _LEFT + i * step + 1, _LEFT + (i + 1) * step - 1
        share, sure = (bottom - _SIDE * value / number for value in (hits, total))
        draw.rectangle((left, share, end, bottom), _BAR)
        draw.rectangle((left, min(share, sure), end, max(share, sure)), _GAP)
        draw.line((left, sure, end, sure), _INK, 2)
        top = floor - _COUNTS * number / max(pixels)
        draw.rectangle((left, min(top, floor - 1), end, floor), _BAR)
    draw.line((_LEFT, bottom, _LEFT + _SIDE, _TOP), _INK)
    draw.line((_LEFT, floor, _LEFT + _SIDE, floor), _LINES)
    heading = f"{title}: pixels of the right class by confidence, in percent"
    size = 15
    while size > 8 and font.getlength(heading) > width - 20:
        size -= 1
        font = load_font(size)
    draw.text((10, 12), heading, _INK, font)
    draw.text((_LEFT, bottom + 30), f"{sum(pixels):,} pixels", _INK, small, "lm")
    draw.text((_LEFT + _SIDE / 2, floor + 20), "confidence", _INK, small, "mm")
    return np.asarray(page)
