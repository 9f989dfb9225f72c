"""Reads PNGs of masks, which hold numbers in one channel, or colours in three.

Legend: H W pixels.
"""

import dataclasses
import functools
import io
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from eomt_jax.datasets.sources import some
from eomt_jax.rgb import short_reason

# Pillow spreads grey of fewer than eight bits over 0 to 255.
_SPREAD = {"L;2": 85, "L;4": 17}
_INDEX_MODES = ("1", "L", "P", "I;16", "I")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Pixels of a PNG of masks: numbers, colours, or numbers with a palette of colours.

    Attributes:
      indices: uint16 [H, W]; None of a PNG with three channels.
      rgb: uint8 [H, W, 3]; None of a grey PNG.
    """

    indices: np.ndarray | None
    rgb: np.ndarray | None

    @functools.cached_property
    def is_grey_in_colors(self) -> bool:
        """Returns whether three channels are alike, as of grey that is saved as RGB."""
        return self.indices is None and bool(
            (self._rgb() == self._rgb()[..., :1]).all()
        )

    def values(self, *, file: str) -> np.ndarray:
        """Returns numbers, uint16 [H, W]; ValueError where the file has colours."""
        if self.indices is not None:
            return self.indices
        if self.is_grey_in_colors:
            return self._rgb()[..., 0].astype(np.uint16)
        raise ValueError(
            f"{file} has colours ({spell_colors(self.colors())}), but a label map has "
            "the number of a class in each pixel: save it with one channel, grey or "
            "palette; mask_folder also takes classes with the color of each"
        )

    def shown_colors(self) -> np.ndarray | None:
        """Returns int [H, W], 0xRRGGBB as viewers show it; None for grey of 16 bits."""
        if self.rgb is not None:
            return self.colors()
        assert self.indices is not None
        has_8_bits = self.indices.max() <= 255
        return self.indices.astype(np.int32) * 0x010101 if has_8_bits else None

    def colors(self) -> np.ndarray:
        """Returns int [H, W], 0xRRGGBB, for a PNG that isn't grey."""
        red, green, blue = np.moveaxis(self._rgb().astype(np.int32), -1, 0)
        return red << 16 | green << 8 | blue

    def _rgb(self) -> np.ndarray:
        assert self.rgb is not None
        return self.rgb


def read_pixels(encoded: bytes, *, file: str) -> Pixels:
    """Returns the numbers or colours in a PNG, whatever its channels or bit depth.

    Raises:
      ValueError: the file is damaged, no PNG, has colours of 16 bits, or pixels that
        one sees through.
    """
    image: Any = _open_png(encoded, file)
    if image.mode in _INDEX_MODES:
        spread = next((_SPREAD[t.args] for t in image.tile if t.args in _SPREAD), 1)
        indices = _decode(image, file).astype(np.uint16) // spread
        rgb = np.asarray(image.convert("RGB")) if image.mode == "P" else None
        return Pixels(indices, rgb)
    if any(str(tile.args).endswith("16B") for tile in image.tile):
        raise ValueError(
            f"{file} has colours of 16 bits a channel, of which Pillow reads 8: save it "
            "with one channel, grey or palette"
        )
    channels = _decode(image, file)
    if image.mode in ("LA", "RGBA"):
        if channels[..., -1].min() < 255:
            raise ValueError(
                f"{file} is transparent in places (alpha below 255), which stands for no "
                "class: save it without alpha"
            )
        channels = channels[..., :-1]
    if channels.shape[-1] == 1:
        return Pixels(channels[..., 0].astype(np.uint16), None)
    if channels.ndim != 3 or channels.shape[-1] != 3:
        raise ValueError(f"{file} has the channels {image.mode}, which no mask has")
    return Pixels(None, channels)


def read_label_map(encoded: bytes, *, file: str) -> UInt16[np.ndarray, "H W"]:
    """Returns the numbers in a PNG of one channel, of any palette or bit depth.

    Raises:
      ValueError: see read_pixels; or the file has colours.
    """
    return read_pixels(encoded, file=file).values(file=file)


def read_rgb(encoded: bytes, *, file: str) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the channels of a PNG that has three; ValueError where it hasn't."""
    image = _open_png(encoded, file)
    if image.mode != "RGB":
        raise ValueError(f"{file} has the channels {image.mode}, not RGB")
    return _decode(image, file)


def size_of(encoded: bytes, *, file: str) -> tuple[int, int]:
    """Returns (height, width) of a PNG; ValueError where it is none."""
    image = _open_png(encoded, file)
    return image.height, image.width


def spell_colors(colors: np.ndarray) -> str:
    """Returns some of the colours 0xRRGGBB in words, "#ff0000, #00ff00 and 2 more"."""
    names = [f"#{color:06x}" for color in np.unique(colors)]
    return some(names)


def _open_png(encoded: bytes, file: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded), formats=["PNG"])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = "is empty" if not encoded else f"is no PNG ({short_reason(error)})"
        raise ValueError(f"{file} {what}") from error


def _decode(image: Image.Image, file: str) -> np.ndarray:
    try:
        return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file} can't be decoded ({error})") from error
