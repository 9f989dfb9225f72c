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


def test_coco_instance_is_the_things_of_coco_panoptic():
    classes = dataset_info.load_classes("coco_instance")

    assert classes == dataset_info.load_classes("coco_panoptic")[:80]


def test_ade20k_panoptic_has_the_benchmarks_150_classes_50_of_them_stuff():
    classes = dataset_info.load_classes("ade20k_panoptic")

    assert [c.id for c in classes] == list(range(1, 151))
    assert [c.is_thing for c in classes].count(False) == 50
    stuff = [label for label, c in enumerate(classes) if not c.is_thing]
    assert stuff[:8] == [0, 1, 2, 3, 4, 5, 6, 9]
    assert stuff[-4:] == [131, 140, 141, 145]


def test_ade20k_known_rows():
    classes = dataset_info.load_classes("ade20k_panoptic")

    assert (classes[0].name, classes[0].color) == ("wall", (120, 120, 120))
    assert (classes[7].name, classes[7].color) == ("bed", (204, 5, 255))
    assert (classes[12].name, classes[12].color) == ("person", (150, 5, 61))
    assert (classes[89].name, classes[89].color) == ("television", (0, 255, 194))
    assert (classes[149].name, classes[149].color) == ("flag", (92, 0, 255))


def test_ade20k_semantic_has_the_same_classes_without_things():
    semantic = dataset_info.load_classes("ade20k_semantic")
    panoptic = dataset_info.load_classes("ade20k_panoptic")

    assert not any(c.is_thing for c in semantic)
    assert [(c.id, c.name, c.color) for c in semantic] == [
        (c.id, c.name, c.color) for c in panoptic
    ]


def test_cityscapes_classes_are_the_19_evaluated_ones_by_label_id():
    classes = dataset_info.load_classes("cityscapes_semantic")

    assert [c.id for c in classes] == [
        *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22),
        *(23, 24, 25, 26, 27, 28, 31, 32, 33),
    ]
    assert not any(c.is_thing for c in classes)
    assert (classes[0].name, classes[0].color) == ("road", (128, 64, 128))
    assert (classes[18].name, classes[18].color) == ("bicycle", (119, 11, 32))


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
