"""Draws a confusion matrix.

Every evaluation of semantic segmentation draws one, so Pillow does it: matplotlib and
what it needs take 76 MB, and 8 times as long for 150 classes.

Legend: K classes, n of them drawn, H W pixels of the picture.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw

from eomt_jax.pictures.name_plates import load_font

_INK, _PAPER, _LINES = (32, 35, 42), (255, 255, 255), (226, 229, 234)
# Colours for values from 0 to 1, evenly spaced.
_COLORS = np.array(
    [(247, 249, 252), (190, 214, 235), (96, 160, 204), (33, 97, 164), (8, 38, 92)]
)
_TICKS = (0, 1, 5, 10, 25, 50, 75, 100)
_GAP, _TITLE, _BAR = 14, 26, 16
_LARGE = 1200
"""Size in pixels above which a matrix has its names on all four sides."""


def draw_confusion(
    confusion: Integer[np.ndarray, "rows columns"],
    names: Sequence[str],
    *,
    title: str,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws which part of each class's pixels is predicted as which class.

    Rows are divided by their sums. Colours show the square root of a share, so that one
    pixel in a hundred is visible, and cells that are large enough show the percentage.
    Classes that neither occur nor are predicted are left out; the row of a class that
    is only predicted is empty.

    Args:
      confusion: [K, K], pixels by target class (rows) and predicted class.
      names: names of the K classes.
      title: says what was measured: a dataset, a split.

    Raises:
      ValueError: there is not a name for each class, or no pixel in the matrix.
    """
    if confusion.shape != (len(names), len(names)):
        raise ValueError(
            f"the confusion matrix has shape {confusion.shape}, for {len(names)} names"
        )
    drawn = np.flatnonzero(confusion.sum(0) + confusion.sum(1))
    if not len(drawn):
        raise ValueError("the confusion matrix has no pixel, so nothing can be drawn")
    counts = confusion[np.ix_(drawn, drawn)].astype(np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = int(np.clip(880 // len(drawn), 15, 52))
    sheet = _with_names(
        _draw_matrix(shares, cell), [names[k] for k in drawn.tolist()], cell
    )
    title += ": share of each class's pixels, in percent, by predicted class"
    if len(drawn) < len(names):
        title += f" ({len(drawn)} of {len(names)} classes occur)"
    return np.asarray(_with_titles(sheet, title))


def _draw_matrix(shares: Float[np.ndarray, "n n"], cell: int) -> Image.Image:
    """Draws the cells with lines between them, and percentages where they fit."""
    pixels = np.repeat(np.repeat(_colorize(shares), cell, axis=0), cell, axis=1)
    pixels = np.pad(pixels, ((0, 1), (0, 1), (0, 0)))
    pixels[::cell], pixels[:, ::cell] = _LINES, _LINES
    matrix = Image.fromarray(pixels)
    if cell >= 24:
        draw, font = ImageDraw.Draw(matrix), load_font(min(cell // 2, 15))
        for row, column in np.argwhere(shares >= 0.005):
            share = shares[row, column]
            center = ((column + 0.5) * cell, (row + 0.5) * cell)
            ink = _PAPER if share > 0.3 else _INK
            draw.text(center, f"{100 * share:.0f}", ink, font, anchor="mm")
    return matrix


def _colorize(shares: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    positions = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(np.sqrt(shares), positions, channel) for channel in _COLORS.T]
    return np.round(np.stack(channels, -1)).astype(np.uint8)


def _with_names(matrix: Image.Image, names: Sequence[str], cell: int) -> Image.Image:
    """Adds the targets' names on the left and the predictions' names above.

    A large matrix has them on the opposite sides too.
    """
    font = load_font(min(cell - 2, 15))
    width = max(int(font.getlength(name)) for name in names) + _GAP

    def column(anchor: str) -> Image.Image:
        image = Image.new("RGB", (width, matrix.height), _PAPER)
        draw = ImageDraw.Draw(image)
        x = _GAP / 2 if anchor == "lm" else width - _GAP / 2
        for i, name in enumerate(names):
            draw.text((x, (i + 0.5) * cell), name, _INK, font, anchor=anchor)
        return image

    turn = Image.Transpose.ROTATE_90
    opposite = width if matrix.width > _LARGE else 0
    side = width + matrix.width + opposite
    sheet = Image.new("RGB", (side, side), _PAPER)
    sheet.paste(matrix, (width, width))
    sheet.paste(column("rm"), (0, width))
    sheet.paste(column("lm").transpose(turn), (width, 0))
    if opposite:
        sheet.paste(column("lm"), (width + matrix.width, width))
        sheet.paste(column("rm").transpose(turn), (width, width + matrix.width))
    return sheet


def _with_titles(sheet: Image.Image, title: str) -> Image.Image:
    """Adds the title, the names of the axes, and the scale of colours."""
    font, small = load_font(15), load_font(13)
    bar_height = min(sheet.height - _TITLE, 420)
    width = max(sheet.width + _TITLE + 90, int(font.getlength(title)) + 2 * _GAP)
    page = Image.new("RGB", (width, sheet.height + 2 * _TITLE + 2 * _GAP), _PAPER)
    draw = ImageDraw.Draw(page)
    left, top = _GAP + _TITLE, _GAP + 2 * _TITLE
    page.paste(sheet, (left, top))
    draw.text((_GAP, _GAP), title, _INK, font)
    draw.text(
        (left + sheet.width / 2, _GAP + 1.5 * _TITLE), "predicted", _INK, font, "mm"
    )
    target = Image.new("RGB", (sheet.height, _TITLE), _PAPER)
    ImageDraw.Draw(target).text(
        (sheet.height / 2, _TITLE / 2), "target", _INK, font, "mm"
    )
    page.paste(target.transpose(Image.Transpose.ROTATE_90), (_GAP, top))

    x = left + sheet.width + _GAP
    # The colours take the square root themselves: squares are evenly spaced in them.
    scale = np.linspace(1, 0, bar_height)[:, None] ** 2
    page.paste(Image.fromarray(_colorize(np.repeat(scale, _BAR, axis=1))), (x, top))
    for tick in _TICKS:
        y = top + (1 - np.sqrt(tick / 100)) * (bar_height - 1)
        draw.line((x + _BAR, y, x + _BAR + 4, y), _INK)
        draw.text((x + _BAR + 8, y), f"{tick} %", _INK, small, "lm")
    return page
