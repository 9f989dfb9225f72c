"""Compact, padded targets."""

import numpy as np
import pytest

from eomt_jax.pipeline import targets

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
