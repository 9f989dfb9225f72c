"""Colour jitter on uint8 photographs, as the release gets it from torchvision.

Every operation ends in uint8 again and cuts the fraction off instead of rounding it,
because torchvision does. What depends on one channel value alone goes through a table
of 256 entries; what mixes channels runs in strips of rows, so that no float copy of a
whole photograph ever exists.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32, UInt8

MAX_BRIGHTNESS_CHANGE = 32 / 255
MAX_CONTRAST_CHANGE = 0.5
MAX_SATURATION_CHANGE = 0.5
MAX_HUE_CHANGE = 18 / 360

# ITU-R 601 luma to four digits, as torchvision has it (they sum to 0.9999).
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)
_STRIP_PIXELS = 1 << 15


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """What was drawn for one photograph; None: this change is not made.

    Attributes:
      brightness: factor, about 1.
      contrast: factor, about 1.
      saturation: factor, about 1.
      hue: shift in turns of the colour wheel, about 0.
      contrast_first: contrast comes before saturation and hue, else after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    contrast_first: bool = True


def draw_color_jitter(rng: np.random.Generator) -> ColorJitter:
    """Each change with probability ½, its strength uniform in its range."""

    def draw(change: float, center: float) -> float | None:
        # Both numbers are always drawn: what follows must not depend on the coin.
        coin, strength = rng.random(2)
        value = center + change * (2 * strength - 1)
        return float(value) if coin < 0.5 else None

    return ColorJitter(
        brightness=draw(MAX_BRIGHTNESS_CHANGE, 1.0),
        contrast=draw(MAX_CONTRAST_CHANGE, 1.0),
        saturation=draw(MAX_SATURATION_CHANGE, 1.0),
        hue=draw(MAX_HUE_CHANGE, 0.0),
        contrast_first=bool(rng.random() < 0.5),
    )


def jitter_color(image: UInt8[np.ndarray, "H W 3"], jitter: ColorJitter) -> np.ndarray:
    """Brightness, then contrast before or after saturation and hue."""
    if jitter.brightness is not None:
        image = adjust_brightness(image, jitter.brightness)
    if jitter.contrast is not None and jitter.contrast_first:
        image = adjust_contrast(image, jitter.contrast)
    if jitter.saturation is not None:
        image = adjust_saturation(image, jitter.saturation)
    if jitter.hue is not None:
        image = adjust_hue(image, jitter.hue)
    if jitter.contrast is not None and not jitter.contrast_first:
        image = adjust_contrast(image, jitter.contrast)
    return image


def adjust_brightness(image: UInt8[np.ndarray, "H W 3"], factor: float) -> np.ndarray:
    """factor · value."""
    return _blend_table(factor, 0.0)[image]


def adjust_contrast(image: UInt8[np.ndarray, "H W 3"], factor: float) -> np.ndarray:
    """Away from the photograph's mean grey (factor > 1) or towards it."""
    # Each pixel's grey is a whole number, so a float64 sum of them is exact.
    total = sum(float(_gray(strip).sum(dtype=np.float64)) for strip in _strips(image))
    mean = total / (image.shape[0] * image.shape[1])
    return _blend_table(factor, mean)[image]


def adjust_saturation(image: UInt8[np.ndarray, "H W 3"], factor: float) -> np.ndarray:
    """Away from each pixel's own grey (factor > 1) or towards it."""
    out = np.empty_like(image)
    for strip, target in zip(_strips(image), _strips(out), strict=True):
        gray = _gray(strip)[..., None] * np.float32(1 - factor)
        mixed = strip * np.float32(factor)
        mixed += gray
        np.clip(mixed, 0, 255, out=mixed)
        target[...] = mixed.astype(np.uint8)
    return out


def adjust_hue(image: UInt8[np.ndarray, "H W 3"], shift: float) -> np.ndarray:
    """Turns the hue, keeping saturation and value of the HSV cone.

    Args:
      image: RGB.
      shift: in turns, −½ to ½; ½ gives the complementary colours.
    """
    out = np.empty_like(image)
    for strip, target in zip(_strips(image), _strips(out), strict=True):
        # Planes: NumPy is far faster on contiguous channels than along an axis of 3.
        planes = strip.transpose(2, 0, 1).astype(np.float32, order="C")
        _turn_hue(planes, shift)
        target[...] = planes.transpose(1, 2, 0).astype(np.uint8)
    return out


def _turn_hue(planes: Float32[np.ndarray, "3 H W"], shift: float) -> None:
    """In place, ready for the fraction to be cut off."""
    red, green, blue = planes
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    # Hue in sixths of a turn. Grey pixels get some hue, and no chroma to show it.
    scale = 1 / np.maximum(chroma, 1)
    hue = (red - green) * scale + 4
    np.copyto(hue, (blue - red) * scale + 2, where=value == green)
    np.copyto(hue, (green - blue) * scale, where=value == red)
    hue += np.float32(6 * shift)
    # A channel falls from the value by the chroma as the hue leaves it: not within one
    # sixth around it, fully from two sixths on. Half a turn away it lies lowest.
    for plane, peak in zip(planes, (0, 2, 4), strict=True):
        distance = np.abs(hue - np.float32(peak))
        np.minimum(distance, np.abs(6 - distance), out=distance)
        distance -= 1
        np.clip(distance, 0, 1, out=distance)
        distance *= chroma
        np.subtract(value, distance, out=plane)
    # torchvision's way from [0, 1] back to 0 … 255: times 255.999, fraction cut off.
    planes *= np.float32(255.999 / 255)


def _blend_table(factor: float, other: float) -> UInt8[np.ndarray, "256"]:
    """factor · value + (1 − factor) · other for each of the 256 values."""
    table = np.arange(256, dtype=np.float32) * np.float32(factor)
    table += np.float32((1 - factor) * other)
    return np.clip(table, 0, 255).astype(np.uint8)


def _gray(strip: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W"]:
    """Whole-numbered luma."""
    gray = strip[..., 0] * _LUMA[0]
    gray += strip[..., 1] * _LUMA[1]
    gray += strip[..., 2] * _LUMA[2]
    return np.floor(gray, out=gray)


def _strips(image: np.ndarray) -> list[np.ndarray]:
    """Views of consecutive rows, each small enough to stay in the cache as floats."""
    height, width, _ = image.shape
    rows = max(1, _STRIP_PIXELS // width)
    return [image[top : top + rows] for top in range(0, height, rows)]
