"""Draws what queries predict on the way, a row for each segment.

Legend: H W pixels of the photograph, h w of a cell, L predictions, n segments.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from eomt_jax.pictures.name_plates import legible, shorten
from eomt_jax.pictures.outlines import outline_segments
from eomt_jax.pictures.overlays import fit_long_side, resize_image, short_name
from eomt_jax.postprocess.segmentation import Segmentation

_INK, _FAINT, _PAPER = (32, 35, 42), (128, 133, 142), (255, 255, 255)
_CELL, _MARGIN, _GAP, _LEFT, _LINE = 240, 20, 16, 176, 25
_TITLE_SIZE, _NAME_SIZE, _SIZE = 26, 20, 17
_DARKNESS = 0.25
"""Light that is left where a mask's probability is 0."""
_TITLE = "How queries find their segments"
_LEGEND = (
    "Each row follows one query through the network. Its mask is bright, with a line around",
    "probabilities above 50%. Below the mask is the class that the query predicts there.",
)


def draw_explanation(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Float[np.ndarray, "L n H W"],
    *,
    layers: Sequence[str],
    segments: Sequence[tuple[str, float | None]],
    queries: Sequence[int],
    classes: Sequence[Sequence[str]],
    scores: Float[np.ndarray, "L n"],
    colors: UInt8[np.ndarray, "n 3"],
) -> Image.Image:
    """Draws a row for each segment: its query's mask and class in each prediction.

    The photograph is dark and grey where a mask isn't, and a line surrounds the pixels
    whose probability is above ½.

    Args:
      image: RGB.
      masks: probability of each pixel.
      layers: names of the predictions.
      segments: class and score of each segment.
      queries: number of each segment's query.
      classes: names of the classes that the queries predict.
      scores: probability of these classes.
      colors: of the segments.
    """
    height, width = fit_long_side(image.shape[:2], _CELL)
    photograph = resize_image(image, (height, width))
    small = Image.fromarray(image)
    small.thumbnail((_LEFT - _GAP, _LEFT - _GAP))
    top = _MARGIN + max(small.height + _GAP, 5 * _LINE)
    row_height, column_width = height + _LINE + _GAP, width + _GAP
    page_width = max(_MARGIN + _LEFT + len(layers) * column_width, 880)
    page_size = page_width, top + max(len(segments) * row_height, _LINE) + _GAP
    page = Image.new("RGB", page_size, _PAPER)
    page.paste(small, (_MARGIN, _MARGIN))

    left = _MARGIN + _LEFT
    if not segments:
        _write(page, (left, top + _LINE // 2), "There are none.", page_width - left)
    _write(page, (left, _MARGIN + 10), _TITLE, page_width - left, size=_TITLE_SIZE)
    for i, line in enumerate(_LEGEND):
        at = left, _MARGIN + 10 + round((1.4 + i) * _LINE)
        _write(page, at, line, page_width - left, color=_FAINT)
    for column, layer in enumerate(layers):
        at = left + column * column_width + width // 2, top - 16
        _write(page, at, layer, column_width, anchor="mm")
    for row, (name, score) in enumerate(segments):
        y = top + row * row_height
        at = _MARGIN, y + height // 2 - _LINE
        _write(page, at, short_name(name), _LEFT - _GAP, size=_NAME_SIZE)
        notes = [] if score is None else [f"score {100 * score:.0f}%"]
        for i, note in enumerate([*notes, f"query {queries[row]}"], start=1):
            at = _MARGIN, y + height // 2 + (i - 1) * _LINE
            _write(page, at, note, _LEFT - _GAP, color=_FAINT)
        for column in range(len(layers)):
            x = left + column * column_width
            cell = _draw_cell(photograph, masks[column, row], colors[row])
            page.paste(cell, (x, y))
            found = classes[column][row]
            text = f"{short_name(found)} {100 * scores[column, row]:.0f}%"
            color = _INK if found == name else _FAINT
            at = x + width // 2, y + height + _LINE // 2 + 1
            _write(page, at, text, width, anchor="mm", color=color)
    return page


def _draw_cell(
    photograph: UInt8[np.ndarray, "h w 3"],
    mask: Float[np.ndarray, "H W"],
    color: UInt8[np.ndarray, " 3"],
) -> Image.Image:
    """Draws a photograph in the light of a mask, with an outline."""
    height, width, _ = photograph.shape
    shown = Image.fromarray(photograph)
    light = Image.fromarray(np.round(255 * mask).astype(np.uint8))
    light = light.resize((width, height), Image.Resampling.BILINEAR)
    dark = shown.convert("L").point([_DARKNESS * v for v in range(256)]).convert("RGB")
    cell = Image.composite(shown, dark, light)
    outlined = outline_segments(
        Segmentation(labels=np.zeros(1, np.int32), masks=mask[None] > 0.5),
        np.zeros(1, int),
        grid=(height, width),
        line_width=2.0,
    )
    cell.paste(tuple(color.tolist()), (0, 0), Image.fromarray(outlined.lines))
    return cell


def _write(
    page: Image.Image,
    at: tuple[int, int],
    text: str,
    width: int,
    *,
    anchor: str = "lm",
    color: tuple[int, int, int] = _INK,
    size: int = _SIZE,
) -> None:
    """Writes a text, which is cut at its end where it is too wide."""
    text, font = legible(text, size)
    text = shorten(text, font, float(width), shortest=1) or ""
    ImageDraw.Draw(page).text(at, text, color, font, anchor=anchor)
