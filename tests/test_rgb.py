"""Training, prediction and preview see the same pixels of a file."""

import io

import numpy as np
import pytest
from PIL import Image

from eomt_jax import rgb
from eomt_jax.datasets.photographs import (
    check_photograph,
    stored_and_upright_size,
    turn_upright,
)
from eomt_jax.pipeline.transforms import decode_image
from eomt_jax.predict.photographs import read_photograph

# A red square is in the middle; the pixels around it are transparent and black.
COLORS = np.zeros((8, 8, 3), np.uint8)
COLORS[2:6, 2:6] = (200, 40, 40)
ALPHA = np.uint8(255) * (COLORS[..., 0] > 0)
RED, GREY, WHITE, BLACK = (200, 40, 40), (200,) * 3, (255,) * 3, (0,) * 3


def encode(image, format_name="PNG", **options):
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def picture(array, mode=None):
    image = Image.fromarray(array)
    return image.convert(mode) if mode else image


PALETTE = picture(COLORS).quantize(4)
BACKGROUND = PALETTE.getpixel((0, 0))
RGBA = Image.fromarray(np.dstack([COLORS, ALPHA]))
LA = Image.merge("LA", [picture(COLORS[..., 0]), picture(ALPHA)])
# The file, and the colours of its corner and its middle.
FILES = {
    "RGB": (encode(picture(COLORS)), BLACK, RED),
    "RGBA": (encode(RGBA), WHITE, RED),
    "RGBA WebP": (encode(RGBA, "WEBP", lossless=True), WHITE, RED),
    "LA": (encode(LA), WHITE, GREY),
    "RGB with tRNS": (encode(picture(COLORS), transparency=(0, 0, 0)), WHITE, RED),
    "L with tRNS": (encode(picture(COLORS[..., 0]), transparency=0), WHITE, GREY),
    "palette with tRNS": (encode(PALETTE, transparency=BACKGROUND), WHITE, RED),
    "palette": (encode(PALETTE), BLACK, RED),
    "1 bit": (encode(picture(COLORS[..., 0] > 0)), BLACK, WHITE),
    "grey": (encode(picture(COLORS[..., 0])), BLACK, GREY),
    "16 bits": (encode(picture(COLORS[..., 0].astype(np.uint16) << 8)), BLACK, GREY),
    "CMYK TIFF": (encode(picture(COLORS, "CMYK"), "TIFF"), BLACK, RED),
}


@pytest.mark.parametrize("name", FILES)
def test_readers_see_the_same_colours(tmp_path, name):
    encoded, corner, middle = FILES[name]
    (tmp_path / "file").write_bytes(encoded)
    trained = np.asarray(decode_image(encoded))
    np.testing.assert_array_equal(trained, read_photograph(tmp_path / "file"))
    assert trained.shape == (8, 8, 3)
    assert tuple(trained[0, 0]) == corner and tuple(trained[4, 4]) == middle


def test_to_rgb_strips_make_one_picture(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (37, 11, 4), np.uint8)
    image = Image.fromarray(noise)
    alpha = noise[..., 3:].astype(float) / 255
    expected = alpha * noise[..., :3] + (1 - alpha) * 255
    monkeypatch.setattr(rgb, "_STRIP", 50)
    found = np.asarray(rgb.to_rgb(image))
    np.testing.assert_allclose(found, expected, atol=1)


def test_to_rgb_leaves_rgb_alone():
    image = picture(COLORS)
    assert rgb.to_rgb(image) is image


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
)


@pytest.mark.parametrize(
    "encoded",
    [POSTSCRIPT, encode(picture(COLORS), "PPM"), encode(picture(COLORS), "PCX"), b""],
    ids=["PostScript", "PPM", "PCX", "empty"],
)
def test_readers_refuse_formats_that_are_not_named(tmp_path, encoded):
    """Pillow would start Ghostscript, another program, for PostScript."""
    (tmp_path / "holiday.jpg").write_bytes(encoded)
    with pytest.raises(ValueError, match=r"holiday\.jpg is (no picture|empty)"):
        read_photograph(tmp_path / "holiday.jpg")
    with pytest.raises(ValueError, match="no picture that can be read"):
        decode_image(encoded)
    with pytest.raises(ValueError, match=r"holiday\.jpg is (no picture|empty)"):
        check_photograph(encoded, file="holiday.jpg")
    assert stored_and_upright_size(encoded) is None
    assert turn_upright(encoded, size=(8, 8), note=print) == encoded


@pytest.mark.parametrize("value", ["six", b"\0\1", 0, 9, -1, 65535])
def test_exif_orientation_that_is_none_is_upright(tmp_path, value):
    image = picture(COLORS)
    exif = image.getexif()
    exif[0x0112] = value
    exif._data[0x0112] = value
    image.getexif = lambda: exif
    assert rgb.exif_orientation(image) == 1


def test_exif_orientation_that_cannot_be_read_is_upright():
    encoded = encode(picture(COLORS), exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff")
    assert rgb.exif_orientation(rgb.open_photograph(encoded)) == 1
    assert decode_image(encoded).size == (8, 8)
    assert turn_upright(encoded, size=(8, 8), note=print) == encoded
