"""Colours of segments in a picture, from the colours of their classes.

The published class tables were made for label files and hold near-blacks, neon greens
and greys. In a picture each class keeps its hue, but gets a lightness and a colourfulness
at which the photograph shows through and neighbours don't shout one another down.

Colours are chosen in OKLCh, where equal steps look equally large (Björn Ottosson,
https://bottosson.github.io/posts/oklab).

Legend: n segments.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from eomt_jax.types import ClassInfo

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FROM_LAB, _FROM_CONES = np.linalg.inv(_TO_LAB), np.linalg.inv(_TO_CONES)
_LIGHTNESS = {True: (0.60, 0.74), False: (0.60, 0.80)}
"""Least and most, of things and of stuff; 1 is white."""
_CHROMA = {True: (0.17, 0.22), False: (0.00, 0.15)}
"""Least and most: things stand out from stuff."""
_PLATE_LIGHTNESS, _PLATE_CHROMA = 0.33, 0.10
_GREY = 0.02
"""A class colour of less chroma has no hue of its own."""
_GOLDEN = 0.618
"""Multiples of it, modulo 1, never come back near an earlier one."""


def segment_colors(rows: Sequence[ClassInfo]) -> UInt8[np.ndarray, "n 3"]:
    """RGB of each segment: its class's for stuff, a shade around it for each thing.

    Args:
      rows: the class of each segment; things of one class get shades in this order,
        the first its class's own colour.
    """
    colors = np.zeros((len(rows), 3))
    seen: dict[str, int] = {}
    for i, row in enumerate(rows):
        lightness, chroma, hue = _to_lch(np.array(row.color) / 255)
        is_grey = chroma < _GREY
        lightness = np.clip(lightness, *_LIGHTNESS[row.is_thing])
        chroma = np.clip(chroma, *_CHROMA[row.is_thing])
        if is_grey:
            # A thing as grey as the ground would not be seen.
            chroma, hue = (0.10, 4.6) if row.is_thing else (0.015, hue)
        if row.is_thing:
            number = seen[row.name] = seen.get(row.name, -1) + 1
            shade = (number * _GOLDEN + 0.5) % 1 - 0.5
            hue += 1.5 * shade
            lightness += 0.15 * ((2 * number * _GOLDEN + 0.5) % 1 - 0.5)
        colors[i] = _to_rgb(lightness, chroma, hue)
    return np.round(255 * colors).astype(np.uint8)


def darken(color: UInt8[np.ndarray, " 3"]) -> UInt8[np.ndarray, " 3"]:
    """RGB of the same hue, dark enough for white letters to be read on it."""
    _, chroma, hue = _to_lch(color / 255)
    rgb = _to_rgb(_PLATE_LIGHTNESS, min(chroma, _PLATE_CHROMA), hue)
    return np.round(255 * rgb).astype(np.uint8)


def _to_lch(rgb: Shaped[np.ndarray, " 3"]) -> tuple[float, float, float]:
    """Lightness and chroma, 0 to 1, and hue in radians, of sRGB in 0 to 1."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness, a, b = _TO_LAB @ np.cbrt(_TO_CONES @ linear)
    return float(lightness), float(np.hypot(a, b)), float(np.arctan2(b, a))


def _to_rgb(lightness: float, chroma: float, hue: float) -> Float[np.ndarray, " 3"]:
    """sRGB in 0 to 1; with less chroma where the screen has no such colour."""
    while True:
        lab = np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)])
        linear = _FROM_CONES @ (_FROM_LAB @ lab) ** 3
        if chroma < 1e-3 or (linear.min() >= 0 and linear.max() <= 1):
            break
        chroma *= 0.95
    linear = np.clip(linear, 0, 1)
    rgb = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return np.clip(rgb, 0, 1)
