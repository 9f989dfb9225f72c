"""Reads photographs from files, images and arrays as upright RGB of 8 bits.

Its colours are those that training sees (eomt_jax.rgb). Prepared datasets keep their
photographs' orientation (pipeline.transforms.decode_image), since their masks were drawn
on the pixels as stored. Nobody drew a mask on a user's photograph yet, so it is turned the
way that every viewer shows it.

Legend: H W pixels.
"""

import collections
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageOps

from eomt_jax.regular_files import check_regular
from eomt_jax.rgb import open_photograph, short_reason, to_rgb, upper_bits

PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp"),
    *(".bmp", ".dib", ".tif", ".tiff", ".avif", ".jp2", ".heic", ".heif", ".hif"),
)
"""Endings that a folder is searched for; HEIC is listed so that it is refused."""

MOST_SERVED_PIXELS = 64_000_000
"""Most pixels of a photograph from a stranger; a larger one's masks take gigabytes."""

_MAX_BYTES = 1 << 30
# Photographs of more pixels than this are decoded one after the other: on the way each
# takes up to 10 bytes a pixel, and threads read several at once.
_LARGE = 1 << 25
_ONE_AT_A_TIME = threading.Lock()
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def read_photograph(source: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Returns RGB, as a viewer shows it.

    An orientation in EXIF is applied, and colours become RGB as in training (see
    rgb.to_rgb). Of an animation, or a file of several pages, the first picture is taken.

    Args:
      source: a path, which may be in a bucket; a PIL image; or an array, uint8 or
        uint16, [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.

    Raises:
      ValueError: naming the file: it is damaged, none that Pillow reads, or has more
        pixels than Pillow's limit against decompression bombs, 179 million.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the image")
    if isinstance(source, str | os.PathLike):
        return _read_file(epath.Path(source).expanduser())
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source))
    raise ValueError(
        f"a photograph is a path, a PIL image or an array, not {type(source).__name__}"
    )


def read_ahead(
    read: Callable[[Any], Any], sources: Iterable[Any], *, num_threads: int, depth: int
) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """Reads the next sources in threads, ahead of their use.

    Args:
      read: called with each source.
      sources: in the order wanted.
      num_threads: 0 reads where it is called.
      depth: how many sources are read ahead.

    Yields:
      Each source, and a function that gives what was read, or raises what was raised.
    """
    if not num_threads:
        for source in sources:
            yield source, functools.partial(read, source)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: collections.deque[tuple[Any, Future[Any]]] = collections.deque()
        try:
            for source in sources:
                ahead.append((source, pool.submit(read, source)))
                if len(ahead) > depth:
                    first, future = ahead.popleft()
                    yield first, future.result
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result
        finally:
            for _, future in ahead:
                future.cancel()


def _read_file(path: epath.Path) -> UInt8[np.ndarray, "H W 3"]:
    check_regular(path, max_bytes=_MAX_BYTES)
    try:
        encoded = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror})") from error
    return decode_photograph(encoded, str(path))


def decode_photograph(
    encoded: bytes, name: str, *, max_pixels: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns RGB of a file's bytes, as `read_photograph` does.

    Args:
      encoded: the bytes.
      name: of the file, for messages.
      max_pixels: most pixels that the photograph may have, by default Pillow's limit.

    Raises:
      ValueError: see `read_photograph`, or it has more than max_pixels.
    """
    try:
        image = open_photograph(encoded)
    except ValueError as error:
        raise ValueError(_no_picture(name, encoded, error)) from error
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise ValueError(
            f"{name} has {image.width} × {image.height} pixels, and at most "
            f"{max_pixels:,} are taken here: make it smaller, or give it to eomt-predict"
        )
    return _to_rgb(image, name)


def _no_picture(name: str, encoded: bytes, error: ValueError) -> str:
    if not encoded:
        return f"{name} is empty"
    if isinstance(error.__cause__, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return (
            f"{name} has more than {limit:,} pixels, at which Pillow suspects an attack; "
            "cut it into parts"
        )
    if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIC_BRANDS:
        return (
            f"{name} is HEIC, which Pillow can't read; save it as JPEG (heif-convert, "
            "ImageMagick; iPhone: Settings, Camera, Formats, Most Compatible)"
        )
    return f"{name} is {error}"


def _to_rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    is_large = image.width * image.height > _LARGE
    with _ONE_AT_A_TIME if is_large else contextlib.nullcontext():
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    try:
        image.load()
    except Exception as error:
        raise ValueError(f"{name} is damaged ({short_reason(error)})") from error
    # EXIF that can't be read says nothing; the pixels are whole all the same.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    try:
        return np.asarray(to_rgb(image))
    except ValueError as error:
        raise ValueError(
            f"{name} has colours that can't be read ({image.mode}: {error})"
        ) from error


def _from_array(pixels: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    shape, dtype = pixels.shape, pixels.dtype
    if dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"an array of {dtype} has no known white; give uint8, 0 to 255, or uint16"
        )
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size:
        raise ValueError(
            f"an array of shape {shape} is no photograph: give [H, W, 3], RGB, rows "
            "first and colours last"
        )
    if dtype == np.uint16:
        pixels = upper_bits(pixels)
    if pixels.shape[2] == 4:
        return _to_rgb(Image.fromarray(pixels, "RGBA"), "the array")
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
