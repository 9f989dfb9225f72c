"""Draws what queries predict on the way, a row for each segment.

Legend: H W pixels of the photograph, h w of a cell, L predictions, M layers whose
attention is known, n segments.
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
_CELL, _SMALL_CELL, _MANY = 240, 160, 10
"""Long side of a cell in pixels, and with more columns than `_MANY`."""
_MARGIN, _GAP, _LEFT, _LINE = 20, 16, 176, 25
_TITLE_SIZE, _NAME_SIZE, _SIZE = 26, 20, 17
_DARKNESS, _GLOW = 0.25, (255, 150, 20)
"""Light that is left where a mask's probability is 0, and the colour of attention."""
_TITLE = "How queries find their segments"
_LEGEND = (
    "Each row follows one query through the network. Its mask is bright, with a line around",
    "probabilities above 50%. Below the mask is the class that the query predicts there.",
)
_ATTENTION = "Orange shows where the query looks in between, averaged over the heads."


def draw_explanation(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Float[np.ndarray, "L n H W"],
    attention: Float[np.ndarray, "M n H W"],
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
      attention: how much a query attends to each pixel in a layer; each cell is
        relative to its largest value.
      layers: names of the L - 1 layers that follow a prediction.
      segments: class and score of each segment.
      queries: number of each segment's query.
      classes: names of the classes that the queries predict.
      scores: probability of these classes.
      colors: of the segments.
    """
    num_columns = len(masks) + len(attention)
    cell = _CELL if num_columns <= _MANY else _SMALL_CELL
    height, width = fit_long_side(image.shape[:2], cell)
    photograph = resize_image(image, (height, width))
    small = Image.fromarray(image)
    small.thumbnail((_LEFT - _GAP, _LEFT - _GAP))
    legend = [*_LEGEND, *([_ATTENTION] if len(attention) else [])]
    top = _MARGIN + max(small.height + _GAP, (3 + len(legend)) * _LINE)
    row_height, column_width = height + _LINE + _GAP, width + _GAP
    page_width = max(_MARGIN + _LEFT + num_columns * column_width, 880)
    page_size = page_width, top + max(len(segments) * row_height, _LINE) + _GAP
    page = Image.new("RGB", page_size, _PAPER)
    page.paste(small, (_MARGIN, _MARGIN))

    left = _MARGIN + _LEFT
    _write(page, (left, _MARGIN + 10), _TITLE, page_width - left, size=_TITLE_SIZE)
    for i, line in enumerate(legend):
        at = left, _MARGIN + 10 + round((1.4 + i) * _LINE)
        _write(page, at, line, page_width - left, color=_FAINT)
    if not segments:
        _write(page, (left, top + _LINE // 2), "There are none.", page_width - left)
    for row, (name, score) in enumerate(segments):
        at = _MARGIN, top + row * row_height + height // 2 - _LINE
        _write(page, at, short_name(name), _LEFT - _GAP, size=_NAME_SIZE)
        notes = [] if score is None else [f"score {100 * score:.0f}%"]
        for i, note in enumerate([*notes, f"query {queries[row]}"], start=1):
            _write(page, (_MARGIN, at[1] + i * _LINE), note, _LEFT - _GAP, color=_FAINT)

    def write_centered(x: int, y: int, text: str, color=_INK) -> None:
        _write(page, (x + width // 2, y), text, width, anchor="mm", color=color)

    x = left
    for i, masks_of_layer in enumerate(masks):
        title = f"before {layers[i]}" if i < len(layers) else "final"
        write_centered(x, top - 16, title)
        for row, mask in enumerate(masks_of_layer):
            y = top + row * row_height
            page.paste(_draw_mask(photograph, mask, colors[row]), (x, y))
            text = f"{short_name(classes[i][row])} {100 * scores[i, row]:.0f}%"
            color = _INK if classes[i][row] == segments[row][0] else _FAINT
            write_centered(x, y + height + _LINE // 2 + 1, text, color)
        x += column_width
        if i < len(attention):
            write_centered(x, top - 16, f"in {layers[i]}")
            for row, weights in enumerate(attention[i]):
                y = top + row * row_height
                page.paste(_draw_attention(photograph, weights), (x, y))
            x += column_width
    return page


def _draw_mask(
    photograph: UInt8[np.ndarray, "h w 3"],
    mask: Float[np.ndarray, "H W"],
    color: UInt8[np.ndarray, " 3"],
) -> Image.Image:
    """Draws a photograph in the light of a mask, with an outline."""
    light = Image.fromarray(photograph)
    cell = _light_up(light, light, mask)
    outlined = outline_segments(
        Segmentation(labels=np.zeros(1, np.int32), masks=mask[None] > 0.5),
        np.zeros(1, int),
        grid=photograph.shape[:2],
        line_width=2.0,
    )
    cell.paste(tuple(color.tolist()), (0, 0), Image.fromarray(outlined.lines))
    return cell


def _draw_attention(
    photograph: UInt8[np.ndarray, "h w 3"], weights: Float[np.ndarray, "H W"]
) -> Image.Image:
    """Draws a photograph that glows where a query attends to it."""
    shown = Image.fromarray(photograph)
    glow = Image.blend(shown, Image.new("RGB", shown.size, _GLOW), 0.6)
    return _light_up(shown, glow, weights / max(weights.max(), 1e-9))


def _light_up(
    shown: Image.Image, light: Image.Image, strength: Float[np.ndarray, "H W"]
) -> Image.Image:
    """Returns `light` where the strength is 1, and `shown` in dark grey where it is 0."""
    dark = shown.convert("L").point([_DARKNESS * v for v in range(256)]).convert("RGB")
    values = Image.fromarray(np.round(255 * strength).astype(np.uint8))
    values = values.resize(shown.size, Image.Resampling.BILINEAR)
    return Image.composite(light, dark, values)


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
