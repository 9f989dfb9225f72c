"""Converts colours to OKLCh, a space in which equal steps look equally large.

The formulas and matrices are Björn Ottosson's
(https://bottosson.github.io/posts/oklab).
"""

import numpy as np
from jaxtyping import Float

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


def rgb_to_lab(rgb: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Converts sRGB in 0 to 1 to lightness (0 to 1), a and b."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T


def rgb_to_lch(rgb: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Converts sRGB in 0 to 1 to lightness and chroma (0 to 1) and hue (radians)."""
    lightness, a, b = np.moveaxis(rgb_to_lab(rgb), -1, 0)
    return np.stack([lightness, np.hypot(a, b), np.arctan2(b, a)], axis=-1)


def lch_to_rgb(lch: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Converts to sRGB in 0 to 1, with less chroma where a screen lacks the colour."""
    lightness, chroma, hue = np.moveaxis(lch, -1, 0)
    while True:
        lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
        linear = (lab @ _FROM_LAB.T) ** 3 @ _FROM_CONES.T
        shown = (linear.min(-1) >= 0) & (linear.max(-1) <= 1) | (chroma < 1e-3)
        if shown.all():
            break
        chroma = np.where(shown, chroma, 0.95 * chroma)
    linear = np.clip(linear, 0, 1)
    rgb = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return np.clip(rgb, 0, 1)
