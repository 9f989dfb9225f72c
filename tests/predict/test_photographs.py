import io
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from eomt_jax.predict import photographs
from eomt_jax.predict.photographs import read_ahead, read_photograph

RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)
# The corners are different, so that no turn or mirroring keeps the image.
CORNERS = np.array([[RED, GREEN, GREEN], [BLUE, GREY, GREY]], np.uint8)

# For each EXIF orientation, the function from upright pixels to the file's pixels.
STORED_AS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_read_photograph_is_upright(tmp_path, orientation):
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED_AS[orientation](CORNERS))
    Image.fromarray(stored).save(path, exif=exif)
    np.testing.assert_array_equal(read_photograph(path), CORNERS)
    np.testing.assert_array_equal(read_photograph(Image.open(path)), CORNERS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_read_photograph_broken_exif_changes_nothing(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(CORNERS).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_photograph(str(path)).shape == CORNERS.shape


def _transparent_palette():
    image = Image.new("P", (1, 1), 3)
    image.info["transparency"] = 3
    return image


MODES = [
    (Image.new("L", (1, 1), 77), (77, 77, 77)),
    (Image.new("1", (1, 1), 1), (255, 255, 255)),
    (Image.new("RGB", (1, 1), RED).quantize(2), RED),
    (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), (255, 0, 0)),
    (Image.new("YCbCr", (1, 1), (77, 128, 128)), (77, 77, 77)),
    (Image.new("RGBA", (1, 1), (*RED, 255)), RED),
    (Image.new("RGBA", (1, 1), (*RED, 0)), (255, 255, 255)),
    (Image.new("RGBA", (1, 1), (0, 0, 0, 128)), (127, 127, 127)),
    (Image.new("LA", (1, 1), (0, 128)), (127, 127, 127)),
    (Image.new("LA", (1, 1), (0, 128)).convert("La"), (127, 127, 127)),
    (_transparent_palette(), (255, 255, 255)),
    (Image.fromarray(np.array([[65_535]], np.uint16)), (255, 255, 255)),
    (Image.fromarray(np.array([[0x4D00]], np.uint16)), (77, 77, 77)),
    (Image.fromarray(np.array([[0x4D00]], np.int32)), (77, 77, 77)),
    (np.array([[77]], np.uint8), (77, 77, 77)),
    (np.array([[[77]]], np.uint8), (77, 77, 77)),
    (np.array([[RED]], np.uint8), RED),
    (np.array([[[0, 0, 0, 128]]], np.uint8), (127, 127, 127)),
    (np.array([[[0x4D00, 0, 0xFFFF]]], np.uint16), (77, 0, 255)),
]


@pytest.mark.parametrize(("source", "color"), MODES)
def test_read_photograph_colours(source, color):
    pixels = read_photograph(source)
    assert pixels.shape == (1, 1, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[0, 0], color, atol=1)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_read_photograph_animation_shows_its_first_picture(tmp_path, suffix):
    path = tmp_path / f"moving.{suffix}"
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(read_photograph(path)[0, 0], RED)


def _encoded(suffix):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(file, suffix)
    return file.getvalue()


def _bomb():
    """Returns a PNG whose header claims 40,000 × 40,000 pixels."""
    header = b"IHDR" + (40_000).to_bytes(4) * 2 + b"\x08\x02\x00\x00\x00"
    crc = zlib.crc32(header).to_bytes(4)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + (13).to_bytes(4) + header + crc + (8).to_bytes(4) + b"IDAT"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"no picture at all", r".*unknown format"),
        (_encoded("jpeg")[:-300], "damaged"),
        (_encoded("png")[:-300], "damaged"),
        (_encoded("png")[:20], "no picture"),
        (_encoded("png")[:60] + b"\0" * 40 + _encoded("png")[100:], "damaged"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*save it as JPEG"),
        (_bomb(), "more than 178,956,970 pixels"),
    ],
    ids=["empty", "text", "jpeg", "png", "header", "spliced", "heic", "bomb"],
)
def test_read_photograph_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"photo\.jpg.* {message}"):
        read_photograph(path)


def test_read_photograph_what_is_no_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_photograph(tmp_path)
    with pytest.raises(ValueError, match=r"missing\.jpg does not exist"):
        read_photograph(tmp_path / "missing.jpg")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "not int"),
        (np.zeros((4, 4, 3), np.float32), "float32 has no known white"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\).*colours last"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (Image.new("F", (1, 1)), "float32"),
        (Image.fromarray(np.array([[70_000]], np.int32)), "70000"),
    ],
)
def test_read_photograph_other_arguments_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_photograph(source)


def test_large_photographs_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    """Decoding two at the same time would need the memory of two."""
    for name in "abc":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    at_once, most = 0, 0
    decode = photographs._decode

    def watch(image, name):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        pixels = decode(image, name)
        at_once -= 1
        return pixels

    monkeypatch.setattr(photographs, "_decode", watch)
    for limit, expected in ((1200, 3), (1199, 1)):
        monkeypatch.setattr(photographs, "_LARGE", limit)
        most = 0
        files = [tmp_path / f"{name}.png" for name in "abc"]
        read = read_ahead(read_photograph, files, num_threads=3, depth=3)
        assert [one().shape for _, one in read] == [(30, 40, 3)] * 3
        assert most == expected
