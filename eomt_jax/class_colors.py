"""Chooses the colours of classes in pictures, and of classes without a colour.

The published class tables were made for label files and hold near-blacks, neon greens
and greys. In a picture each class keeps its hue, but gets a lightness and a chroma with
which the photograph stays visible and no class dominates its neighbours.

Legend: n classes.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float

from eomt_jax.oklab import lch_to_rgb, rgb_to_lab, rgb_to_lch

# Each pair is the smallest and the largest value; things have more chroma than stuff.
_THING_LIGHTNESS, _STUFF_LIGHTNESS = (0.60, 0.74), (0.60, 0.80)
_THING_CHROMA, _STUFF_CHROMA = (0.17, 0.22), (0.00, 0.15)
_GREY = 0.02
"""A colour of less chroma has no hue of its own."""
_FIRST = (238, 51, 51)
_NUM_DISTINCT = 1024


def fit_colors(
    rgb: Float[np.ndarray, "n 3"], is_thing: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Returns the OKLCh that each class has in a picture.

    Args:
      rgb: the classes' colours, 0 to 1.
      is_thing: whether each is a thing or stuff.
    """
    lightness, chroma, hue = np.moveaxis(rgb_to_lch(rgb), -1, 0)
    is_grey = chroma < _GREY
    lightness = np.where(
        is_thing,
        np.clip(lightness, *_THING_LIGHTNESS),
        np.clip(lightness, *_STUFF_LIGHTNESS),
    )
    chroma = np.where(
        is_thing, np.clip(chroma, *_THING_CHROMA), np.clip(chroma, *_STUFF_CHROMA)
    )
    # A grey thing would not be visible on grey ground, so it gets some chroma.
    chroma = np.where(is_grey, np.where(is_thing, 0.10, 0.015), chroma)
    hue = np.where(is_grey & is_thing, 4.6, hue)
    return np.stack([lightness, chroma, hue], axis=-1)


def distinct_color(number: int) -> tuple[int, int, int]:
    """Returns the colour of class `number`, far from all before it and always the same.

    Any two of the first 20 classes are 0.08 apart in OKLab, of the first 60 classes
    0.04, also in a picture; CSS takes 0.02 as just noticeable. After 1024 classes the
    colours repeat.
    """
    number %= _NUM_DISTINCT
    red, green, blue = _distinct_colors(max(64, 1 << number.bit_length()))[number]
    return int(red), int(green), int(blue)


@functools.cache
def _distinct_colors(count: int) -> np.ndarray:
    """Returns int [count, 3]: each colour is the farthest from those before it.

    The distance of two colours is the least that a picture shows, whether their classes
    are things or stuff.
    """
    rgb = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3), axis=-1).reshape(-1, 3)
    lightness, chroma, _ = rgb_to_lch(rgb / 255).T
    # Pixels without a segment are grey, and very dark or pale colours have no clear
    # hue.
    rgb = rgb[(lightness > 0.4) & (lightness < 0.9) & (chroma > 0.06)]
    shown = [
        rgb_to_lab(lch_to_rgb(fit_colors(rgb / 255, np.full(len(rgb), is_thing))))
        for is_thing in (True, False)
    ]
    chosen = [int((rgb == _FIRST).all(1).argmax())]
    distance = np.full(len(rgb), np.inf)
    while len(chosen) < count:
        for new in shown:
            for old in shown:
                apart = np.linalg.norm(new - old[chosen[-1]], axis=1)
                distance = np.minimum(distance, apart)
        # A colour has some distance from its own other fit, but is chosen only once.
        distance[chosen[-1]] = -1
        chosen.append(int(distance.argmax()))
    return rgb[chosen]
