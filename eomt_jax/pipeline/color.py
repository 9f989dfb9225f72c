"""Colour jitter on uint8 photographs, with the results of the release's torchvision.

Every operation ends in uint8 again and cuts the fraction off instead of rounding it,
because torchvision does. What depends on one channel value alone goes through a table
of 256 entries; hue, which Pillow cannot turn so finely, runs in strips of rows, so that
no float copy of a whole photograph ever exists.
"""

import dataclasses

import numpy as np
from jaxtyping import Float32
from PIL import Image

MAX_BRIGHTNESS_CHANGE = 32 / 255
MAX_CONTRAST_CHANGE = 0.5
MAX_SATURATION_CHANGE = 0.5
MAX_HUE_CHANGE = 18 / 360

# ITU-R 601 luma to four digits, as torchvision has it (they sum to 0.9999).
_LUMA = (0.2989, 0.587, 0.114)
_STRIP_PIXELS = 1 << 15


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """The changes of colour drawn for one photograph; None leaves a property unchanged.

    Attributes:
      brightness: a factor; 1 changes nothing.
      contrast: a factor; 1 changes nothing.
      saturation: a factor; 1 changes nothing.
      hue: shift in turns of the colour wheel; 0 changes nothing.
      contrast_first: contrast is changed before saturation and hue; False changes it
        after them.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    contrast_first: bool = True


def draw_color_jitter(rng: np.random.Generator) -> ColorJitter:
    """Draws each change with probability ½, and its strength uniformly in its range."""

    def draw(change: float, center: float) -> float | None:
        # Both numbers are always drawn, so that later draws don't depend on the coin.
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


def jitter_color(image: Image.Image, jitter: ColorJitter) -> Image.Image:
    """Changes brightness, then contrast before or after saturation and hue."""
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


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Multiplies all values by `factor`."""
    return image.point(_blend_table(factor, 0.0) * 3)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Moves values away from the image's mean grey (factor > 1) or towards it."""
    counts = np.array(_gray(image).histogram())
    mean = float(counts @ np.arange(256)) / (image.width * image.height)
    return image.point(_blend_table(factor, mean) * 3)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Moves values away from each pixel's own grey (factor > 1) or towards it."""
    return Image.blend(Image.merge("RGB", [_gray(image)] * 3), image, factor)


def adjust_hue(image: Image.Image, shift: float) -> Image.Image:
    """Turns the hue, keeping saturation and value of the HSV cone.

    Args:
      image: RGB.
      shift: in turns, −½ to ½; ½ gives the complementary colours.
    """
    # NumPy is far faster on contiguous channels than along an axis of 3.
    planes = np.stack([np.asarray(plane) for plane in image.split()])
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = planes[:, top : top + rows].astype(np.float32)
        _turn_hue(strip, shift)
        planes[:, top : top + rows] = strip
    return Image.merge("RGB", [Image.fromarray(plane) for plane in planes])


def _turn_hue(planes: Float32[np.ndarray, "3 H W"], shift: float) -> None:
    """Turns the hue in place; the result still has its fraction, to be cut off."""
    red, green, blue = planes
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    # Hue is in sixths of a turn. Grey pixels get any hue: without chroma none shows.
    scale = 1 / np.maximum(chroma, 1)
    hue = (red - green) * scale + 4
    np.copyto(hue, (blue - red) * scale + 2, where=value == green)
    np.copyto(hue, (green - blue) * scale, where=value == red)
    hue += np.float32(6 * shift)
    # A channel equals the HSV value while the hue is within one sixth of the channel's
    # own, and is lower by the whole chroma from two sixths on; in between it is linear.
    for plane, peak in zip(planes, (0, 2, 4), strict=True):
        distance = np.abs(hue - np.float32(peak))
        np.minimum(distance, np.abs(6 - distance), out=distance)
        distance -= 1
        np.clip(distance, 0, 1, out=distance)
        distance *= chroma
        np.subtract(value, distance, out=plane)
    # torchvision multiplies values in [0, 1] by 255.999 and cuts the fraction off.
    planes *= np.float32(255.999 / 255)


def _blend_table(factor: float, other: float) -> list[int]:
    """Returns factor · value + (1 − factor) · other for each of the 256 values."""
    table = np.arange(256, dtype=np.float32) * np.float32(factor)
    table += np.float32((1 - factor) * other)
    return np.clip(table, 0, 255).astype(np.uint8).tolist()


def _gray(image: Image.Image) -> Image.Image:
    """Returns the luma, with its fraction cut off."""
    # Pillow adds ½ before it cuts the fraction off; −0.5 takes that back.
    return image.convert("L", (*_LUMA, -0.5))
