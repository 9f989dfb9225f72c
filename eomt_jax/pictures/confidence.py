"""Draws the confidence of each pixel of a photograph.

Legend: H W pixels of the photograph.
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from eomt_jax.pictures.name_plates import load_font
from eomt_jax.pictures.overlays import fit_long_side, resize_image

# Colours of the confidences 0, ¼, ½, ¾ and 1: what the network doesn't know glows.
_COLORS = np.array(
    [(255, 209, 64), (240, 112, 53), (176, 42, 91), (74, 26, 92), (16, 14, 40)]
)
_PHOTOGRAPH = 0.35
"""Share of the grey photograph in a pixel of the picture."""
_INK, _PAPER = (32, 35, 42), (255, 255, 255)
_STRIP = 44
"""Height of the scale below the photograph in pixels."""
_TICKS = (0, 25, 50, 75, 100)


def draw_confidence(
    image: UInt8[np.ndarray, "H W 3"],
    confidence: Float[np.ndarray, "H W"],
    *,
    long_side: int | None = None,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Draws a grey photograph coloured by confidence, above the scale of colours.

    Args:
      image: RGB.
      confidence: 0 to 1.
      long_side: of the photograph in the picture, in pixels; by default its own.
    """
    height, width = fit_long_side(confidence.shape, long_side or max(confidence.shape))
    values = Image.fromarray(np.asarray(confidence, np.float32))
    values = values.resize((width, height), Image.Resampling.BILINEAR)
    colors = _colorize(np.clip(np.asarray(values), 0, 1))
    grey = Image.fromarray(resize_image(image, (height, width))).convert("L")
    mixed = (1 - _PHOTOGRAPH) * colors + _PHOTOGRAPH * np.asarray(grey)[..., None]
    page = Image.new("RGB", (width, height + _STRIP), _PAPER)
    page.paste(Image.fromarray(np.round(mixed).astype(np.uint8)), (0, 0))
    _draw_scale(page, top=height)
    return np.asarray(page)


def _draw_scale(page: Image.Image, *, top: int) -> None:
    """Draws the colours from 0 to 1, with percentages where there is room."""
    margin = min(24, page.width // 4)
    length = max(page.width - 2 * margin, 1)
    scale = _colorize(np.linspace(0, 1, length))
    bar = np.broadcast_to(np.round(scale).astype(np.uint8), (12, length, 3))
    page.paste(Image.fromarray(np.ascontiguousarray(bar)), (margin, top + 8))
    if length < 100:
        return
    draw, font = ImageDraw.Draw(page), load_font(13)
    for tick in _TICKS:
        place = (margin + tick / 100 * length, top + 31)
        draw.text(place, f"{tick}%", _INK, font, anchor="mm")


def _colorize(confidence: np.ndarray) -> np.ndarray:
    positions = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(confidence, positions, channel) for channel in _COLORS.T]
    return np.stack(channels, axis=-1)
