"""Errors name what is wrong in a user's COCO JSON."""

import pytest

from tests.datasets import coco_archives
from tests.datasets.own_coco import assert_refused


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"segmentation": []}, "5 of its 5 annotations have no mask .*boxes alone"),
        ({"iscrowd": 1}, "gives its 6 photographs crowds alone.*--crowds_as_objects"),
    ],
)
def test_annotations_of_which_none_can_be_learnt_say_why(own, change, match):
    own.instances["annotations"] = own.instances["annotations"][:5]
    for row in own.instances["annotations"]:
        row.update(change)
    own.write("photos", own.photographs)
    assert_refused(own, match, annotations=own.write("mine.json", own.instances))


def test_panoptic_annotations_that_are_empty_say_so(own):
    for row in own.panoptic["annotations"]:
        row["segments_info"] = []
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "the segments_info of all its 6 annotations are empty",
        annotations=own.write("mine.json", own.panoptic),
        segments=own.write("segments", own.maps),
    )


def test_wrong_kind_of_json_is_named(own):
    own.write("photos", own.photographs)
    panoptic = own.write("panoptic.json", own.panoptic)
    instances = own.write("instances.json", own.instances)
    segments = own.write("segments.zip", own.maps)
    assert_refused(
        own, "panoptic.json is not COCO's instances.*--segments", annotations=panoptic
    )
    assert_refused(
        own,
        "instances.json is not COCO's panoptic format.*without --segments",
        annotations=instances,
        segments=segments,
    )


def test_paths_that_do_not_fit_are_named(own):
    own.write("photos", own.photographs)
    mine = own.write("mine.json", own.instances)
    assert_refused(
        own, "--annotations=nowhere.json is no file", annotations="nowhere.json"
    )
    assert_refused(own, "nowhere is neither", annotations=mine, images="nowhere")
    assert_refused(
        own,
        "--images=train=a is not for the splits.*train=PATH,validation=PATH",
        annotations=f"train={mine},validation={mine}",
        images="train=a",
    )


def test_categories_that_differ_between_splits_are_named(own):
    own.write("photos", own.photographs)
    train = own.write("train.json", own.instances)
    own.instances["categories"][0]["name"] = "people"
    validation = own.write("validation.json", own.instances)
    assert_refused(
        own,
        r"train.json and validation.json differ in the categories 1 \(person\)",
        annotations=f"train={train},validation={validation}",
    )


@pytest.mark.parametrize(
    ("category", "match"),
    [
        ({"id": 1, "name": "person"}, "two classes with the id 1"),
        ({"id": 99, "name": "person"}, "two classes with the name person"),
        ({"id": "1", "name": "x"}, "a whole number as id"),
        ({"name": "x"}, "categories.80. is wrong: id is missing"),
        ({"id": 99, "name": "x", "color": [1, 2, 300]}, r"a color is \[R, G, B\]"),
    ],
)
def test_categories_that_are_wrong_are_named(own, category, match):
    own.instances["categories"].append(category)
    own.write("photos", own.photographs)
    assert_refused(own, match, annotations=own.write("mine.json", own.instances))


def test_photographs_that_cannot_be_used_are_named_together(own):
    own.photographs["photo_1.jpg"] = b""
    own.photographs["photo_2.jpg"] = own.photographs["photo_2.jpg"][:-99]
    own.photographs["photo_4.jpg"] = own.photographs["photo_3.jpg"]
    own.write("photos", own.photographs)
    with pytest.raises(ValueError, match="photo") as error:
        own.build_instances()
    assert "photo_1.jpg is empty; --skip_damaged leaves such" in str(error.value)
    assert "photo_2.jpg can't be decoded" in str(error.value)
    assert "photo_4.jpg has 64 x 48 pixels, but its annotation says 48 x 64" in str(
        error.value
    )


def test_photographs_that_are_missing_or_not_unique_are_named(own):
    mine = own.write("mine.json", own.instances)
    moved = own.photographs.pop("photo_0.jpg")
    own.photographs.update({"a/photo_0.jpg": moved, "b/photo_0.jpg": moved})
    del own.photographs["photo_3.jpg"]
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "annotates 2 files that .*: photo_0.jpg, photo_3.jpg",
        annotations=f"train={mine}",
    )


def test_file_that_two_names_would_share_is_refused(own):
    """One of cam1/0.jpg and cam2/0.jpg is missing; the other isn't taken for it."""
    for row in own.instances["images"]:
        if row["id"] < 9:
            row["file_name"] = f"cam{row['id'] - 6}/0.jpg"
    own.photographs["cam1/0.jpg"] = own.photographs.pop("photo_0.jpg")
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "annotates cam2/0.jpg, which .* lacks: .* cam1/0.jpg, is also what cam1/0.jpg",
        annotations=own.write("mine.json", own.instances),
    )


def test_photograph_with_two_rows_is_refused(own):
    own.instances["images"].append({**own.instances["images"][-1], "id": 99})
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "two images have the file_name photo_0.jpg",
        annotations=own.write("mine.json", own.instances),
    )


def test_image_with_two_panoptic_annotations_is_refused(own):
    own.panoptic["annotations"].append(own.panoptic["annotations"][0])
    own.write("photos", own.photographs)
    assert_refused(
        own,
        r"two annotations are of image_id 7 \(photo_0.jpg\)",
        annotations=own.write("mine.json", own.panoptic),
        segments=own.write("segments", own.maps),
    )


def test_photograph_in_another_format_is_named(own):
    own.photographs["photo_0.jpg"] = b"%!PS-Adobe-3.0 EPSF-3.0\n"
    own.photographs["photo_1.jpg"] = coco_archives.segments_png(own.pictures[1].id_map)[
        :20
    ]
    with pytest.raises(ValueError, match="photo_0.jpg is no picture") as error:
        own.build_instances()
    assert "photo_1.jpg is no picture" in str(error.value)
