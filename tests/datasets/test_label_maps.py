"""The numbers in a PNG of labels are read, mapped to classes and made segments."""

import struct
import zlib

import numpy as np
import pytest

from eomt_jax.datasets import label_maps, mask_pngs
from eomt_jax.types import ClassInfo
from tests.datasets.map_archives import encode

CLASSES = (ClassInfo(4, "a", False, (1, 1, 1)), ClassInfo(2, "b", False, (2, 2, 2)))


def test_colors_of_16_bits_are_refused():
    """Pillow would drop the lower 8 bits, and with them the numbers of all classes."""
    rows = b"".join(b"\0" + bytes([0, 3] * 3 * 4) for _ in range(2))
    header = struct.pack(">IIBBBBB", 4, 2, 16, 2, 0, 0, 0)
    encoded = join_chunks({b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""})
    with pytest.raises(ValueError, match="x.png has colours of 16 bits a channel"):
        mask_pngs.read_label_map(encoded, file="x.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [True, False])
def test_every_bit_depth_and_palette_gives_the_numbers_in_the_file(bits, palette):
    values = np.arange(24 * 32).reshape(24, 32) % (1 << bits)
    encoded = write_png(values, bits, palette=palette)
    np.testing.assert_array_equal(
        mask_pngs.read_label_map(encoded, file="x.png"), values
    )


def test_sixteen_bits_are_read():
    values = np.array([[0, 255, 256, 65_535]], np.uint16)
    read = mask_pngs.read_label_map(encode(values), file="x.png")
    np.testing.assert_array_equal(read, values)


def write_png(values, bits, *, palette):
    """Writes a PNG of a few bits a pixel, whose number Pillow would choose itself."""
    height, width = values.shape
    each = 8 // bits
    shifts = 8 - bits * (1 + np.arange(each))
    packed = (values.reshape(height, -1, each) << shifts).sum(-1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, 3 * palette, 0, 0, 0),
        **({b"PLTE": bytes(range(3 << min(bits, 6)))} if palette else {}),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    return join_chunks(chunks)


def join_chunks(chunks):
    """Returns a PNG of these chunks, given as content by name."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
    )


def test_class_codes_are_labels_from_one_with_none_and_unknown():
    codes = label_maps.class_codes(CLASSES, void=[0, 255])
    assert codes[[4, 2, 0, 255]].tolist() == [1, 2, 0, 0]
    assert len(set(codes.tolist())) == 4  # the rest is unknown


def test_class_codes_move_all_values_at_once():
    codes = label_maps.class_codes(CLASSES, void=[0], remap={2: 4, 4: 2, 7: 4, 0: None})
    assert codes[[2, 4, 7, 0]].tolist() == [1, 2, 1, 0]
    dropped = label_maps.class_codes(CLASSES, void=[0], remap={4: None})
    assert dropped[[4, 2]].tolist() == [0, 2]


def test_unknown_values_are_named_beside_the_known_ranges():
    codes = label_maps.class_codes(CLASSES, void=[0, 1, 255])
    values = np.array([[4, 3], [9, 255]], np.uint16)
    with pytest.raises(ValueError, match="x.png has the value 3, 9, .* 0 to 2, 4, 255"):
        label_maps.encode_classes(values, codes, file="x.png")


def test_number_segments_in_the_order_of_their_codes():
    codes = np.array([[700, 0, 3], [3, 700, 9]], np.uint16)
    segment_map, present = label_maps.number_segments(codes)
    assert present.tolist() == [3, 9, 700]
    assert segment_map.tolist() == [[3, 0, 1], [1, 3, 2]]


def test_number_segments_of_nothing():
    segment_map, present = label_maps.number_segments(np.zeros((2, 3), np.uint16))
    assert present.size == 0
    assert not segment_map.any()


def test_resize_nearest_takes_the_pixel_at_floor_i_in_over_out():
    rows = np.arange(5)[:, None] + np.zeros((5, 2), int)
    assert label_maps.resize_nearest(rows, (3, 1)).ravel().tolist() == [0, 1, 3]
    assert label_maps.resize_nearest(rows, (7, 1)).ravel().tolist() == [
        *(0, 0, 1, 2, 2, 3, 4),
    ]
