import dataclasses
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.result import Result, Segment
from tests.predict.channel_network import INFO

IMAGE = np.zeros((3, 4, 3), np.uint8)
NINE_TENTHS = float(np.float32(0.9))


def panoptic():
    id_map = np.array([[0, 1, 1, 0], [0, 0, 1, 2], [0, 0, 0, 2]])
    labels, scores = np.array([3, 0]), np.array([0.9, 0.8125], np.float32)
    segmentation = Segmentation(labels=labels, id_map=id_map, scores=scores)
    return Result(IMAGE, segmentation, INFO, "panoptic", "beach.jpg")


def instances():
    masks = np.zeros((2, 3, 4), bool)
    masks[0, :2, :2] = masks[1, 1:, 1:] = True
    labels, scores = np.array([1, 0]), np.array([0.9, 0.5], np.float32)
    segmentation = Segmentation(labels=labels, masks=masks, scores=scores)
    return Result(IMAGE, segmentation, INFO, "instance")


def semantic():
    label_map = np.array([[0, 0, 2, 2], [0, 0, 0, 2], [3, 3, 3, 3]])
    return Result(IMAGE, Segmentation.from_label_map(label_map), INFO, "semantic")


def test_segments_in_words_and_numbers():
    assert panoptic().segments == (
        Segment(1, 3, "class 3", False, NINE_TENTHS, 3, (1, 0, 2, 2)),
        Segment(2, 0, "class 0", True, 0.8125, 2, (3, 1, 1, 2)),
    )
    assert instances().segments == (
        Segment(1, 1, "class 1", True, NINE_TENTHS, 4, (0, 0, 2, 2)),
        Segment(2, 0, "class 0", True, 0.5, 6, (1, 1, 3, 2)),
    )
    assert [(s.label, s.area, s.score) for s in semantic().segments] == [
        (0, 5, None),
        (2, 3, None),
        (3, 4, None),
    ]


def test_instances_on_one_map_best_on_top():
    result = instances()
    expected = [[1, 1, 0, 0], [1, 1, 2, 2], [0, 2, 2, 2]]
    np.testing.assert_array_equal(result.id_map, expected)
    np.testing.assert_array_equal(
        result.label_map, [[1, 1, -1, -1], [1, 1, 0, 0], [-1, 0, 0, 0]]
    )


@pytest.mark.parametrize("make", [panoptic, instances, semantic])
def test_masks_are_the_segments(make):
    result = make()
    assert result.masks.shape == (len(result.segments), 3, 4)
    for mask, segment in zip(result.masks, result.segments, strict=True):
        assert mask.sum() == segment.area
        left, top, width, height = segment.box
        assert mask[top : top + height, left : left + width].sum() == segment.area
        # Each side of the box touches the mask.
        assert mask[top].any()
        assert mask[top + height - 1].any()
        assert mask[:, left].any()
        assert mask[:, left + width - 1].any()


@pytest.mark.parametrize("make", [panoptic, instances, semantic])
def test_to_coco_is_a_data_set_that_pycocotools_reads(make, tmp_path):
    result = make()
    (tmp_path / "photo.json").write_text(json.dumps(result.to_coco()))
    coco = COCO(tmp_path / "photo.json")
    info = coco.dataset["info"]
    assert (info["task"], info["dataset"]) == (result.task, "fake")
    picture = result.mask_picture().astype(int)
    numbers = {
        "category_id": lambda: picture,
        "id = R + 256 G + 65536 B": lambda: picture @ [1, 256, 65536],
    }[info["mask_values"]]()
    key = "category_id" if result.task == "semantic" else "id"
    image = {"id": 1, "file_name": result.file_name, "height": 3, "width": 4}
    assert coco.imgs == {1: image}
    rows = coco.loadAnns(coco.getAnnIds(imgIds=1))
    for row, mask, segment in zip(rows, result.masks, result.segments, strict=True):
        np.testing.assert_array_equal(coco.annToMask(row), mask)
        assert row["id"] == segment.id
        assert (numbers == row[key]).sum() == (result.id_map == segment.id).sum()
        category = coco.cats[row["category_id"]]
        assert category == {
            "id": segment.label + 1,
            "name": segment.class_name,
            "isthing": segment.is_thing,
        }
        assert tuple(row["bbox"]) == segment.box
        assert row["area"] == segment.area
        assert ("score" in row) == (result.task != "semantic")
    assert set(coco.cats) == {row["category_id"] for row in rows}


def test_mask_picture():
    np.testing.assert_array_equal(panoptic().mask_picture()[..., 0], panoptic().id_map)
    assert panoptic().mask_picture().shape == (3, 4, 3)
    semantic_ids = semantic().mask_picture()
    np.testing.assert_array_equal(semantic_ids, semantic().label_map + 1)
    assert semantic_ids.dtype == np.uint8


@pytest.mark.parametrize("wrong", [-1, 65_536])
def test_mask_picture_refuses_ids_that_no_png_holds(wrong):
    first = dataclasses.replace(INFO.classes[0], id=wrong)
    info = dataclasses.replace(INFO, classes=(first, *INFO.classes[1:]))
    result = dataclasses.replace(semantic(), info=info)
    with pytest.raises(ValueError, match=f"'class 0' of fake has the id {wrong}"):
        result.mask_picture()


def test_nothing_found():
    empty = Segmentation(labels=np.zeros(0, int), id_map=np.zeros((3, 4), int))
    result = Result(IMAGE, empty, INFO, "panoptic")
    assert result.segments == ()
    assert result.masks.shape == (0, 3, 4)
    assert (result.label_map == -1).all()
    assert result.to_coco()["annotations"] == []


def test_draw_has_the_size_asked_for():
    assert panoptic().draw(long_side=80).shape == (60, 80, 3)
