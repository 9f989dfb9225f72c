"""A user's own dataset in COCO's formats is read."""

import unicodedata

import numpy as np
import pytest

from eomt_jax.class_colors import distinct_color
from eomt_jax.dataset_info.class_tables import make_class_table


def test_instances_with_random_split(own):
    own.instances["categories"].reverse()
    info = own.build_instances(validation=0.3)

    assert (info.name, info.task) == ("mine", "instance")
    assert info.num_examples == {"train": 4, "validation": 2}
    assert [c.id for c in info.classes] == sorted(c.id for c in info.classes)
    assert all(c.is_thing for c in info.classes)
    assert len({c.color for c in info.classes}) == 80
    held_out = own.open("validation")
    everything = own.open("train") + held_out
    assert {r.image_id for r in everything} == {str(i) for i in range(7, 13)}
    objects = {i: [] for i in range(7, 13)}
    for row in own.instances["annotations"]:
        objects[row["image_id"]].append(row)
    for record in everything:
        rows = objects[int(record.image_id)]
        assert record.file_name == f"photo_{int(record.image_id) - 7}.jpg"
        assert record.image_bytes == own.photographs[record.file_name]
        assert record.areas.tolist() == [row["area"] for row in rows]
        categories = [info.classes[label].id for label in record.labels]
        assert categories == [row["category_id"] for row in rows]

    own.build_instances(validation=0.3, split_seed=1, overwrite=True)
    assert [r.image_id for r in own.open("validation")] != [
        r.image_id for r in held_out
    ]


def test_panoptic_with_splits_of_its_own_in_folders_and_archives(own):
    first = {f"photo_{i}" for i in range(4)}
    tables = {"train": dict(own.panoptic), "validation": dict(own.panoptic)}
    for split, table in tables.items():
        table["annotations"] = [
            row
            for row in own.panoptic["annotations"]
            if (row["file_name"][:-4] in first) == (split == "train")
        ]
    deep = {f"export/images/{name}": data for name, data in own.photographs.items()}
    info = own.build(
        images=own.write("photos.zip", deep),
        annotations=f"train={own.write('t.json', tables['train'])},"
        f"validation={own.write('v.json', tables['validation'])}",
        segments=own.write("segments", own.maps),
    )

    assert (info.task, info.num_examples) == ("panoptic", {"train": 4, "validation": 2})
    assert sum(c.is_thing for c in info.classes) == 80
    for split in ("train", "validation"):
        for record in own.open(split):
            picture = own.pictures[int(record.image_id) - 7]
            assert record.file_name == f"photo_{int(record.image_id) - 7}.jpg"
            for number, segment in enumerate(picture.segments):
                np.testing.assert_array_equal(
                    record.segment_map == number + 1, picture.id_map == segment["id"]
                )
            assert len(record.labels) == len(picture.segments)


def test_three_splits_two_of_them_drawn_from_training(own, caplog):
    night = {**own.instances, "images": [], "annotations": []}
    for key, field in (("images", "id"), ("annotations", "image_id")):
        night[key] = [row for row in own.instances[key] if row[field] < 9]
    info = own.build_instances(
        annotations=f"train={own.write('t.json', own.instances)},"
        f"night={own.write('n.json', night)}",
        validation=0.2,
        test=0.3,
    )
    assert info.num_examples == {"train": 3, "night": 2, "validation": 1, "test": 2}
    assert {r.image_id for r in own.open("night")} == {"7", "8"}
    note = "2 photographs of both train and night (photo_0.jpg, photo_1.jpg)"
    assert note in caplog.text


def test_colors_of_the_json_are_kept(own):
    own.instances["categories"][3]["color"] = [1, 2, 3]
    assert own.build_instances().classes[3].color == (1, 2, 3)


def test_roboflow_group_is_no_class(own, caplog):
    """Roboflow adds a category 0 without objects, here with the name of another one."""
    for row in own.instances["categories"]:
        row["supercategory"] = "person"
    group = {"id": 0, "name": "person", "supercategory": "none"}
    own.instances["categories"].insert(0, group)
    own.instances["annotations"][0]["category_id"] = 1  # the person
    info = own.build_instances()
    assert len(info.classes) == 80
    assert info.classes[0].id == 1
    assert "1 categories that only group others, left out (person)" in caplog.text


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("#ff8000", (255, 128, 0)),
        ("#ff8000ff", (255, 128, 0)),
        ("#0f0", (0, 255, 0)),
        ("red", (255, 0, 0)),
        ([1, 2, 3, 255], (1, 2, 3)),
    ],
)
def test_colors_may_be_texts(text, color):
    rows = [{"id": 1, "name": "a", "color": text}]
    assert make_class_table(rows, file="x")[0].color == color


def test_text_that_is_no_color_is_replaced_with_a_warning(caplog):
    rows = [{"id": 1, "name": "a", "color": "rosé"}]
    assert make_class_table(rows, file="x.json")[0].color == distinct_color(0)
    assert "x.json: the color 'rosé' is none; another is taken" in caplog.text


@pytest.mark.parametrize("form", ["NFD", "letter case", "backslash"])
def test_files_are_found_in_other_spellings(own, form, caplog):
    name = {"NFD": "é_{}.jpg", "letter case": "IMG_{}.JPG", "backslash": "x_{}.jpg"}
    on_disk = {}
    for row in own.instances["images"]:
        content = own.photographs[row["file_name"]]
        file = name[form].format(row["id"])
        row["file_name"] = f"images\\{file}" if form == "backslash" else file
        on_disk[unicodedata.normalize("NFD", file.lower())] = content
    own.photographs = on_disk
    assert own.build_instances().num_examples == {"train": 5, "validation": 1}
    assert {r.image_id for r in own.open("train")} < {str(i) for i in range(7, 13)}
    assert "files found under names that differ in letter case, accents" in caplog.text


def test_names_that_differ_in_letter_case_alone_stay_two(own):
    own.photographs["PHOTO_0.jpg"] = own.photographs["photo_1.jpg"]
    own.build_instances()
    for record in own.open("train") + own.open("validation"):
        name = f"photo_{int(record.image_id) - 7}.jpg"
        assert record.image_bytes == own.photographs[name]


def test_damaged_photographs_are_left_out_on_request(own, caplog):
    own.photographs["photo_1.jpg"] = own.photographs["photo_1.jpg"][:-99]
    own.photographs["photo_2.jpg"] = b"<html>"
    images = own.write("photos.zip", own.photographs)
    packed = bytearray((own.folder / "photos.zip").read_bytes())
    start = packed.index(own.photographs["photo_3.jpg"])
    packed[start + 200] ^= 1  # a checksum fails
    (own.folder / "photos.zip").write_bytes(packed)
    info = own.build_instances(skip_damaged=True, images=images)
    assert sum(info.num_examples.values()) == 3
    note = "3 damaged photographs, left out (photo_1.jpg can't be decoded (image file"
    assert note in caplog.text
    assert "photo_2.jpg is no picture that can be read (unknown form" in caplog.text


def test_crowds_are_counted_and_may_be_objects(own, caplog):
    for row in own.instances["annotations"]:
        row["iscrowd"] = int(row["id"] % 2)
    total = len(own.instances["annotations"])
    own.build_instances()
    assert f"{(total + 1) // 2} of {total} segments are crowds (iscrowd = 1)" in (
        caplog.text
    )
    assert "--crowds_as_objects counts them as objects" in caplog.text
    caplog.clear()
    own.build_instances(crowds_as_objects=True, overwrite=True)
    records = own.open("train") + own.open("validation")
    assert sum(len(r.labels) for r in records) == total
    assert not any(r.is_crowd.any() for r in records)
    assert "crowds" not in caplog.text


def test_photographs_without_annotation_are_left_out_and_named(own, caplog):
    own.photographs["other.jpg"] = own.photographs["photo_0.jpg"]
    own.instances["annotations"] = [
        a for a in own.instances["annotations"] if a["image_id"] != 7
    ]
    info = own.build_instances()

    assert sum(info.num_examples.values()) == 5
    assert "1 photographs without a segment, left out (7)" in caplog.text
    assert "without annotation, left out (other.jpg)" in caplog.text


def test_photographs_without_objects_are_trained_on_when_asked(own, caplog):
    own.instances["annotations"] = [
        a for a in own.instances["annotations"] if a["image_id"] not in (7, 8)
    ]
    assert own.build_instances(negatives=True, validation=0).num_examples["train"] == 6
    assert [len(r.labels) for r in own.open("train")][:2] == [0, 0]
    assert "2 train photographs without an object, kept as negatives (7, 8)" in (
        caplog.text
    )
    segments = own.write("segments", own.maps)
    with pytest.raises(ValueError, match="--negatives is for instances"):
        own.build_instances(negatives=True, segments=segments, overwrite=True)


def test_random_split_trains_on_photographs_with_crowds_alone(own):
    for row in own.instances["annotations"]:
        row["iscrowd"] = int(row["image_id"] > 8)
    own.build_instances(validation=0.5)
    assert {r.image_id for r in own.open("validation")} < {"7", "8"}
    assert len(own.open("train")) == 5
