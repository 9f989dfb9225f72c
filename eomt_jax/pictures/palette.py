"""Colours of segments in a picture, from the colours of their classes.

Legend: n segments.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from eomt_jax.class_colors import fit_colors
from eomt_jax.oklab import lch_to_rgb, rgb_to_lch
from eomt_jax.types import ClassInfo

_PLATE_LIGHTNESS, _PLATE_CHROMA = 0.33, 0.10
_GOLDEN = 0.618
"""Multiples of this number, modulo 1, never come back near an earlier one."""


def segment_colors(rows: Sequence[ClassInfo]) -> UInt8[np.ndarray, "n 3"]:
    """Returns the RGB of each segment: its class's, or for things a shade around it.

    Args:
      rows: the class of each segment; things of one class get shades in this order,
        the first its class's own colour.
    """
    rgb = np.array([row.color for row in rows]).reshape(-1, 3) / 255
    lch = fit_colors(rgb, np.array([row.is_thing for row in rows], bool))
    seen: dict[str, int] = {}
    for i, row in enumerate(rows):
        if row.is_thing:
            number = seen[row.name] = seen.get(row.name, -1) + 1
            lch[i, 0] += 0.15 * ((2 * number * _GOLDEN + 0.5) % 1 - 0.5)
            lch[i, 2] += 1.5 * ((number * _GOLDEN + 0.5) % 1 - 0.5)
    return np.round(255 * lch_to_rgb(lch)).astype(np.uint8)


def darken(color: UInt8[np.ndarray, " 3"]) -> UInt8[np.ndarray, " 3"]:
    """Returns the RGB of the same hue on which white letters can be read."""
    _, chroma, hue = rgb_to_lch(color / 255)
    dark = np.array([_PLATE_LIGHTNESS, min(chroma, _PLATE_CHROMA), hue])
    return np.round(255 * lch_to_rgb(dark)).astype(np.uint8)
