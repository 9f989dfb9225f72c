"""Segments become compact, padded targets."""

import numpy as np
import pytest

from eomt_jax.pipeline import targets, transforms

ID_MAP = np.array([[0, 1, 1], [3, 3, 4]], np.uint16)
LABELS = np.array([7, 8, 9, 10], np.int32)
NO_CROWD = np.zeros(4, bool)


def test_visible_segments_are_those_with_a_pixel():
    seen = targets.IdMap(ID_MAP, 4).visible()
    np.testing.assert_array_equal(seen, [True, False, True, True])


def test_visible_segments_of_an_empty_record_are_none():
    assert targets.IdMap(np.zeros((2, 2), np.uint16), 0).visible().shape == (0,)


def test_compact_targets_renumbers_pads_and_voids_what_is_dropped():
    compact = targets.compact_targets(
        targets.IdMap(ID_MAP, 4),
        np.array([False, False, True, True]),
        labels=LABELS,
        is_crowd=np.array([False, False, False, True]),
        size=(3, 4),
        max_targets=5,
    )
    np.testing.assert_array_equal(
        compact["id_map"], [[0, 0, 0, 0], [1, 1, 2, 0], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(compact["labels"], [9, 10, 0, 0, 0])
    np.testing.assert_array_equal(compact["valid"], [True, True, False, False, False])
    np.testing.assert_array_equal(
        compact["is_crowd"], [False, True, False, False, False]
    )
    assert compact["id_map"].dtype == np.uint8 and compact["labels"].dtype == np.int32


@pytest.mark.parametrize(("max_targets", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_id_map_takes_one_byte_up_to_255_targets(max_targets, dtype):
    assert targets.id_map_dtype(max_targets) is dtype
    num_targets = max_targets
    id_map = np.arange(num_targets + 1, dtype=np.uint16)[None]
    compact = targets.compact_targets(
        targets.IdMap(id_map, num_targets),
        np.ones(num_targets, bool),
        labels=np.zeros(num_targets, np.int32),
        is_crowd=np.zeros(num_targets, bool),
        size=id_map.shape,
        max_targets=max_targets,
    )
    np.testing.assert_array_equal(compact["id_map"], id_map)


def test_compact_targets_refuses_more_than_fit_and_names_the_field():
    with pytest.raises(ValueError, match=r"4 targets.*config\.dataset\.max_targets"):
        targets.compact_targets(
            targets.IdMap(ID_MAP, 4),
            np.ones(4, bool),
            labels=LABELS,
            is_crowd=NO_CROWD,
            size=(2, 3),
            max_targets=3,
        )


def overlapping_masks(num_segments):
    rng = np.random.default_rng(num_segments)
    return rng.random((5, 6, num_segments)) < 0.4


def test_mask_bits_by_hand():
    masks = np.zeros((1, 2, 10), bool)
    masks[0, 0, [0, 9]] = True
    masks[0, 1, 3] = True
    np.testing.assert_array_equal(targets.MaskBits.pack(masks).bits, [[[1, 2], [8, 0]]])


@pytest.mark.parametrize("num_segments", [1, 8, 11])
def test_mask_bits_compact_keeps_renumbers_and_pads(num_segments):
    masks = overlapping_masks(num_segments)
    masks[..., -1] = False
    packed = targets.MaskBits.pack(masks)
    visible = packed.visible()
    np.testing.assert_array_equal(visible, masks.any((0, 1)))

    keep = visible & (np.arange(num_segments) % 3 != 1)
    bits = packed.compact(keep, (7, 8), 19)["mask_bits"]
    assert bits.shape == (7, 8, 3) and bits.dtype == np.uint8
    expected = np.zeros((7, 8, 24), bool)
    expected[:5, :6, : keep.sum()] = masks[..., keep]
    np.testing.assert_array_equal(
        np.unpackbits(bits, axis=-1, bitorder="little"), expected
    )


def test_mask_bits_crop_as_an_id_map_of_the_same_segments_does():
    geometry = transforms.Geometry(
        flip=True, resized=(9, 11), offset=(2, 3), crop_size=6
    )
    masks = ID_MAP[..., None] == np.arange(1, 5)
    cropped = targets.MaskBits.pack(masks).crop(geometry)
    expected = targets.IdMap(ID_MAP, 4).crop(geometry)
    np.testing.assert_array_equal(cropped.visible(), expected.visible())
    np.testing.assert_array_equal(
        cropped.bits[..., 0], np.where(expected.ids, 1 << (expected.ids - 1), 0)
    )


def test_mask_bits_without_a_segment():
    packed = targets.MaskBits.pack(np.zeros((3, 4, 0), bool))
    assert packed.visible().shape == (0,)
    assert not packed.compact(np.zeros(0, bool), (5, 5), 3)["mask_bits"].any()


def test_targets_without_masks_have_labels_alone():
    compact = targets.compact_targets(
        None,
        np.ones(4, bool),
        labels=LABELS,
        is_crowd=NO_CROWD,
        size=(2, 3),
        max_targets=4,
    )
    assert set(compact) == {"labels", "valid", "is_crowd"}


def test_compact_targets_mark_void_and_dropped_segments():
    """Padding stays 0, so that masks learn to end at the photograph's border."""
    masks = targets.IdMap(np.array([[0, 1], [2, 3]], np.uint8), 3)
    keep = np.array([True, False, True])
    found = masks.compact(keep, (3, 3), 254, mark_void=True)["id_map"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[255, 1, 0], [255, 2, 0], [0, 0, 0]])
    found = masks.compact(keep, (2, 2), 255, mark_void=True)["id_map"]
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, [[256, 1], [256, 2]])


@pytest.mark.parametrize("max_targets", [2, 7, 8])
def test_mask_bits_mark_pixels_of_dropped_segments_alone(max_targets):
    # On the left is the kept one, in the middle both, on the right the dropped one.
    masks = np.zeros((2, 3, 2), bool)
    masks[0, :2, 0], masks[0, 1:, 1] = True, True
    keep = np.array([True, False])
    bits = targets.MaskBits.pack(masks)
    found = bits.compact(keep, (3, 4), max_targets, mark_void=True)["mask_bits"]
    assert found.shape == (3, 4, max_targets // 8 + 1)
    unpacked = np.unpackbits(found, axis=-1, bitorder="little")
    expected = np.zeros_like(unpacked)
    expected[0, :2, 0], expected[0, 2, max_targets] = 1, 1
    np.testing.assert_array_equal(unpacked, expected)
