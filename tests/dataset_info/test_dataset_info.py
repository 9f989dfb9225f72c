"""Class tables of the published datasets."""

import pytest

from eomt_jax import dataset_info


def test_coco_panoptic_is_80_things_then_53_stuff_in_id_order():
    classes = dataset_info.load_classes("coco_panoptic")

    assert [c.is_thing for c in classes] == [True] * 80 + [False] * 53
    ids = [c.id for c in classes]
    assert ids == sorted(set(ids))
    assert (ids[0], ids[79], ids[80], ids[132]) == (1, 90, 92, 200)


def test_coco_panoptic_known_rows():
    by_id = {c.id: c for c in dataset_info.load_classes("coco_panoptic")}

    assert (by_id[1].name, by_id[1].color) == ("person", (220, 20, 60))
    assert (by_id[72].name, by_id[72].color) == ("tv", (183, 130, 88))
    assert (by_id[155].name, by_id[155].color) == ("sea", (73, 77, 174))
    assert (by_id[187].name, by_id[187].color) == ("sky-other-merged", (70, 130, 180))
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91} & set(by_id)


@pytest.mark.parametrize("name", dataset_info.available())
def test_tables_have_distinct_names_and_real_colours(name):
    classes = dataset_info.load_classes(name)

    assert len({c.name for c in classes}) == len(classes)
    assert len({c.id for c in classes}) == len(classes)
    for row in classes:
        assert len(row.color) == 3
        assert all(0 <= channel <= 255 for channel in row.color)


def test_load_classes_unknown_lists_what_there_is():
    with pytest.raises(ValueError, match="'coco'; there is .*coco_panoptic"):
        dataset_info.load_classes("coco")
