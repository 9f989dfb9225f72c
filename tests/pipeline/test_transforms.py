"""Photographs and their segment maps are flipped, resized, padded and cropped."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eomt_jax.pipeline import transforms
from eomt_jax.pipeline.transforms import Geometry


@pytest.fixture
def photograph():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (47, 61, 3), dtype=np.uint8))


GEOMETRIES = [
    Geometry(flip=False, resized=(20, 26), offset=(0, 0), crop_size=32),
    Geometry(flip=True, resized=(24, 31), offset=(0, 0), crop_size=32),
    Geometry(flip=False, resized=(30, 39), offset=(0, 5), crop_size=32),
    Geometry(flip=True, resized=(94, 122), offset=(17, 71), crop_size=32),
    Geometry(flip=True, resized=(47, 61), offset=(15, 29), crop_size=32),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_crop_image_equals_resizing_whole_then_cutting(photograph, geometry):
    height, width = geometry.resized
    array = np.asarray(photograph)[:, :: -1 if geometry.flip else 1]
    whole = Image.fromarray(np.ascontiguousarray(array)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    expected = np.zeros((32 + height, 32 + width, 3), np.uint8)
    expected[:height, :width] = np.asarray(whole)
    top, left = geometry.offset
    expected = expected[top : top + 32, left : left + 32]
    crop = transforms.crop_image(photograph, geometry)
    # Pillow's box is float32, so the two ways may round a value differently.
    difference = np.abs(crop.astype(int) - expected)
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_crop_map_picks_the_floor_of_the_scaled_index(geometry):
    id_map = np.random.default_rng(1).integers(0, 9, (47, 61), dtype=np.uint16)
    height, width = geometry.resized
    top, left = geometry.offset
    content_h, content_w = geometry.content_size
    flipped = id_map[:, ::-1] if geometry.flip else id_map
    expected = np.empty((content_h, content_w), np.uint16)
    for y in range(content_h):
        for x in range(content_w):
            source_y, source_x = (y + top) * 47 // height, (x + left) * 61 // width
            expected[y, x] = flipped[source_y, source_x]
    np.testing.assert_array_equal(transforms.crop_map(id_map, geometry), expected)


def test_crop_image_is_zero_past_its_content(photograph):
    geometry = Geometry(flip=False, resized=(20, 26), offset=(0, 0), crop_size=32)
    crop = transforms.crop_image(photograph, geometry)
    assert geometry.content_size == (20, 26)
    assert crop[:20, :26].any(axis=-1).mean() > 0.99
    assert not crop[20:].any() and not crop[:, 26:].any()


def test_shrinking_is_antialiased():
    # The stripes have one pixel; a filter of fixed width would keep some of them.
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    geometry = Geometry(flip=False, resized=(8, 8), offset=(0, 0), crop_size=8)
    small = transforms.crop_image(Image.fromarray(stripes), geometry)
    # At the border the filter is cut off, and keeps a trace of the nearest stripe.
    assert np.abs(small.astype(int) - 127.5).max() < 8


def test_draw_geometry_truncates_sizes_and_offsets_only_a_longer_side():
    rng = np.random.default_rng(0)
    drawn = [
        transforms.draw_geometry(rng, (48, 64), crop_size=32, scale_range=(0.1, 2.0))
        for _ in range(3000)
    ]
    assert np.mean([g.flip for g in drawn]) == pytest.approx(0.5, abs=0.04)
    widths = np.array([g.resized[1] for g in drawn])
    # The width is 64 · s · ½ for s in 0.1 … 2, cut to whole pixels.
    assert widths.min() == 3 and widths.max() == 63
    assert widths.mean() == pytest.approx(32 * 1.05 - 0.5, rel=0.03)
    for g in drawn:
        for side, start in zip(g.resized, g.offset, strict=True):
            assert 0 <= start <= max(0, side - 32)
    longest = [g.offset[1] for g in drawn if g.resized[1] > 60]
    assert min(longest) == 0 and max(longest) >= 28


def test_draw_geometry_at_scale_one_just_fits():
    rng = np.random.default_rng(0)
    draw = transforms.draw_geometry(rng, (48, 64), crop_size=32, scale_range=(1.0, 1.0))
    assert dataclasses.replace(draw, flip=False) == Geometry(
        flip=False, resized=(24, 32), offset=(0, 0), crop_size=32
    )


def test_draw_geometry_keeps_a_pixel_of_a_thin_strip():
    rng = np.random.default_rng(0)
    draw = transforms.draw_geometry(rng, (2, 900), crop_size=32, scale_range=(0.1, 0.2))
    assert draw.resized[0] == 1


def test_fit_size_rounds_half_to_even():
    assert transforms.fit_size(480, 640, 640) == (480, 640)
    assert transforms.fit_size(427, 640, 320) == (214, 320)
    # 5 · 32 / 64 = 2.5 → 2 and 7 · 32 / 64 = 3.5 → 4
    assert transforms.fit_size(5, 64, 32) == (2, 32)
    assert transforms.fit_size(7, 64, 32) == (4, 32)
    assert transforms.fit_size(1, 900, 32) == (1, 32)


def test_fit_image_lies_in_the_top_left(photograph):
    fitted = transforms.fit_image(photograph, 32)
    expected = photograph.resize((32, 25), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fitted[:25], np.asarray(expected))
    assert not fitted[25:].any()


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_decode_image_gives_rgb_whatever_the_jpeg_holds(mode, encode_image):
    color = Image.new("RGB", (16, 8), (180, 60, 30)).convert(mode)
    decoded = transforms.decode_image(encode_image(color, "JPEG", quality=95))
    assert decoded.mode == "RGB" and decoded.size == (16, 8)
    expected = (93,) * 3 if mode == "L" else (180, 60, 30)
    assert np.abs(np.asarray(decoded)[4, 8].astype(int) - expected).max() <= 4


def test_decode_image_ignores_the_orientation_in_exif(encode_image):
    image = Image.new("RGB", (16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    assert transforms.decode_image(encode_image(image, "JPEG", exif=exif)).size == (
        16,
        8,
    )


@pytest.mark.parametrize(
    ("image_format", "resized", "decoded"),
    [
        ("JPEG", (101, 151), (403, 605)),
        ("JPEG", (100, 150), (202, 303)),
        ("JPEG", (50, 75), (101, 152)),
        ("JPEG", (20, 75), (101, 152)),
        ("JPEG", (5, 7), (51, 76)),
        ("PNG", (5, 7), (403, 605)),
    ],
)
def test_decode_image_is_never_smaller_than_twice_what_it_is_resized_to(
    encode_image, image_format, resized, decoded
):
    encoded = encode_image(Image.new("RGB", (605, 403)), image_format)
    image = transforms.decode_image(encoded, size=(403, 605), resized=resized)
    assert (image.height, image.width) == decoded
    with pytest.raises(ValueError, match="403×605 pixels, its segments 403×604"):
        transforms.decode_image(encoded, size=(403, 604), resized=resized)


@pytest.mark.parametrize("side", [96, 50, 24])
def test_crop_of_a_photograph_decoded_smaller_is_nearly_the_same(encode_image, side):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
    encoded = encode_image(coarse.resize((400, 400)), "JPEG", quality=95)
    geometry = Geometry(flip=True, resized=(side, side), offset=(0, 0), crop_size=side)
    small = transforms.decode_image(encoded, resized=geometry.resized)
    assert max(small.size) < 400
    whole = transforms.crop_image(transforms.decode_image(encoded), geometry)
    difference = np.abs(transforms.crop_image(small, geometry) - whole.astype(int))
    # Two filters after one another give a slightly sharper result than one.
    assert difference.mean() < 1.5 and np.percentile(difference, 99) < 10


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_decode_image_raises_when_the_file_is_cut_short(
    photograph, encode_image, image_format
):
    encoded = encode_image(photograph, image_format)
    for length in (0, 4, len(encoded) // 2, len(encoded) - 200):
        with pytest.raises(ValueError, match=f"{length} bytes"):
            transforms.decode_image(encoded[:length])


@pytest.mark.parametrize(
    ("size", "covered"),
    [
        ((20, 10), (32, 16)),
        ((10, 25), (16, 40)),
        ((64, 64), (16, 16)),
        ((8, 9), (16, 18)),
        ((32, 33), (16, 16)),  # 16.5, half to even
        ((32, 35), (16, 18)),  # 17.5
    ],
)
def test_cover_size_short_side_covers_and_half_rounds_to_even(size, covered):
    assert transforms.cover_size(*size, 16) == covered


@pytest.mark.parametrize(
    ("long_side", "starts"),
    [
        (10, [0]),
        (11, [0, 1]),
        (20, [0, 10]),
        (21, [0, 5, 11]),
        (35, [0, 8, 16, 25]),
    ],
)
def test_window_starts_are_even_and_end_with_the_image(long_side, starts):
    count = transforms.num_windows(long_side, 10)
    found = [transforms.window_start(j, long_side, 10) for j in range(count)]
    assert found == starts
    assert found[-1] + 10 == long_side


def test_window_starts_on_the_device_are_those_on_the_host():
    for long_side in (16, 17, 40, 55, 512):
        count = transforms.num_windows(long_side, 16)
        on_device = transforms.window_start(jnp.arange(count), jnp.int32(long_side), 16)
        on_host = [transforms.window_start(j, long_side, 16) for j in range(count)]
        assert on_device.tolist() == on_host


@pytest.mark.parametrize("size", [(5, 5), (5, 11), (640, 427), (427, 640), (333, 999)])
def test_max_windows_is_enough_for_the_photograph_it_comes_from(size):
    for side in (10, 64, 512):
        covered = transforms.cover_size(*size, side)
        ratio = max(size) / min(size)
        count = transforms.num_windows(max(covered), side)
        assert transforms.max_windows(ratio, side) == count


@pytest.mark.parametrize("size", [(20, 53), (53, 20), (16, 16)])
def test_cut_windows_put_together_give_the_resized_photograph(photograph, size):
    photograph = photograph.resize(size[::-1])
    height, width = transforms.cover_size(*size, 16)
    whole = np.asarray(photograph.resize((width, height), Image.Resampling.BILINEAR))
    windows = transforms.cut_windows(photograph, 16, count=4)
    joined = np.zeros_like(whole)
    count = transforms.num_windows(max(height, width), 16)
    for j in range(count):
        start = transforms.window_start(j, max(height, width), 16)
        top, left = (start, 0) if height > width else (0, start)
        joined[top : top + 16, left : left + 16] = windows[j]
    np.testing.assert_array_equal(joined, whole)
    assert not windows[count:].any()
