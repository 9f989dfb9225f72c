"""Masks of COCO instances are read like by pycocotools, and bad ones refused."""

import zipfile

import numpy as np
import pytest
from pycocotools import mask as mask_codec
from pycocotools.coco import COCO

from eomt_jax import dataset_info
from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets import coco_archives
from tests.datasets.coco_archives import INSTANCES, SPLITS, TRAIN

NAME = "coco_instance"


@pytest.fixture
def folders(tmp_path):
    """Returns (archives, data_dir)."""
    return tmp_path / "archives", tmp_path / "prepared"


def write(folders, edit_json=None, **pictures):
    written = coco_archives.write_archives(folders[0], **pictures)
    coco_archives.write_instances(folders[0], written, edit_json=edit_json)
    return written


def build(folders):
    archives, data_dir = folders
    return prepare.prepare(NAME, data_dir, archives=archives)


def assert_refused(folders, match):
    with pytest.raises(ValueError, match=match):
        build(folders)
    data_dir = folders[1]
    assert records.prepared_versions(data_dir, NAME) == []
    assert [f for f in data_dir.rglob("*") if f.is_file()] == []


def test_records_equal_pycocotools(folders, tmp_path, capsys):
    pictures = write(folders, train=coco_archives.draw_pictures(8))
    info = build(folders)

    assert info.task == "instance"
    assert info.classes == dataset_info.load_classes(NAME)
    assert info.num_examples == {"train": 8, "validation": 2}
    forms, overlaps, crowds = set(), 0, 0
    for split, name in SPLITS.items():
        file = f"annotations/instances_{name}.json"
        with zipfile.ZipFile(folders[0] / INSTANCES) as archive:
            archive.extract(file, tmp_path)
        coco = COCO(tmp_path / file)
        source = records.open_split(folders[1], NAME, split)
        ids = [source.image_id(i) for i in range(len(source))]
        assert ids == sorted(p.stem for p in pictures[split])
        for record in source:
            rows = coco.imgToAnns[int(record.image_id)]
            masks = record.masks()
            overlaps += (masks.sum(-1) > 1).any()
            crowds += record.is_crowd.sum()
            assert len(rows) == len(record.labels) == masks.shape[-1]
            for number, row in enumerate(rows):
                forms.add(type(row["segmentation"]))
                np.testing.assert_array_equal(masks[..., number], coco.annToMask(row))
                assert info.classes[record.labels[number]].id == row["category_id"]
                assert record.areas[number] == row["area"]
                assert record.is_crowd[number] == row["iscrowd"]
    assert forms == {list, dict}
    assert overlaps > 0
    assert crowds > 0


def test_polygon_by_hand_and_compressed_run_lengths(folders):
    def change(table):
        first, second = table["annotations"][:2]
        image = next(i for i in table["images"] if i["id"] == first["image_id"])
        second["image_id"] = first["image_id"]
        first["segmentation"] = [[10, 4, 30, 4, 30, 20, 10, 20]]
        mask = np.zeros((image["height"], image["width"]), np.uint8, order="F")
        mask[4:20, 10:30] = 1
        rle = mask_codec.encode(mask)
        second["segmentation"] = {**rle, "counts": rle["counts"].decode()}
        del first["area"], second["area"], second["iscrowd"]
        table["annotations"] = [first, second]

    write(folders, change)
    build(folders)

    (record,) = records.open_split(folders[1], NAME, "train")
    by_hand = np.zeros(record.size, bool)
    by_hand[4:20, 10:30] = True
    for mask in np.moveaxis(record.masks(), -1, 0):
        np.testing.assert_array_equal(mask, by_hand)
    assert record.areas.tolist() == [16 * 20] * 2
    assert record.is_crowd.tolist() == [False] * 2


def test_photographs_without_objects_stay_in_validation_alone(folders, caplog):
    pictures = coco_archives.draw_pictures(2), coco_archives.draw_pictures(2, seed=1)

    def change(table):
        first = table["images"][-1]["id"]
        table["annotations"] = [
            a for a in table["annotations"] if a["image_id"] != first
        ]

    write(folders, change, train=pictures[0], validation=pictures[1])
    info = build(folders)

    assert info.num_examples == {"train": 1, "validation": 2}
    empty = records.open_split(folders[1], NAME, "validation")[0]
    assert empty.image_id == pictures[1][0].stem
    assert empty.labels.shape == empty.areas.shape == (0,)
    assert empty.masks().shape == (*empty.size, 0)
    left_out = pictures[0][0].stem
    assert f"1 train photographs without a segment, left out ({left_out})" in (
        caplog.text
    )


def test_photographs_with_crowds_alone_are_named(folders, caplog):
    def change(table):
        first = table["images"][-1]["id"]
        for row in table["annotations"]:
            row["iscrowd"] = int(row["image_id"] == first)

    pictures = write(folders, change)
    assert build(folders).num_examples == {"train": 3, "validation": 2}
    stem = pictures["train"][0].stem
    assert f"crowds alone, which training passes over ({stem})" in caplog.text
    assert "segments are crowds (iscrowd = 1), left out of training (" in caplog.text


def test_crowds_alone_everywhere_are_refused(folders):
    def change(table):
        for row in table["annotations"]:
            row["iscrowd"] = 1

    write(folders, change)
    assert_refused(folders, "gives its 3 train photographs crowds alone")


def test_annotations_without_masks_are_left_out_and_named(folders, caplog):
    def change(table):
        rows = table["annotations"]
        rows[0]["segmentation"] = []
        rows[1]["segmentation"] = [[3, 4, 5, 6]]  # two corners have no inside
        del rows[2]["segmentation"]
        parts = [[1, 1, 9, 1, 9, 9], [3, 4], [3, 4, 5, 6]]
        rows[3]["segmentation"] = parts

    pictures = write(folders, change)
    build(folders)
    source = records.open_split(folders[1], NAME, "train")
    wanted = len(coco_archives.instances_json(pictures["train"])["annotations"]) - 3
    assert sum(len(record.labels) for record in source) == wanted
    assert "annotations without a mask, left out (id 1 of image 1000" in caplog.text
    what = "polygons of fewer than three corners, left out of their objects (id 2"
    assert f": 6 {what} of image 1000" in caplog.text  # three in each split


def test_boxes_alone_are_refused(folders):
    def change(table):
        for row in table["annotations"]:
            row["segmentation"] = []

    write(folders, change)
    assert_refused(folders, "none of its 3 train photographs a segment with a mask")


def set_first(**values):
    def change(table):
        table["annotations"][0].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_first(category_id=12), "segments of category_id 12, which is not among"),
        (set_first(image_id=5), "is not COCO's instances.*image_id 5, which no image"),
        (
            set_first(segmentation=[[1, 2, 3, 4, 5]]),
            "annotation 1: a polygon is no list x, y, x, y",
        ),
        (set_first(segmentation=[None]), "annotation 1: a polygon is no list"),
        (set_first(segmentation="mask"), "annotation 1: the segmentation is neither"),
        (set_first(segmentation={"counts": [16]}), "annotation 1: the size of the run"),
        (
            set_first(segmentation={"size": [64, 48], "counts": [-1, 3073]}),
            "annotation 1: a run length is -1",
        ),
        (set_first(iscrowd=None), "annotation 1: iscrowd is None, not 0 or 1"),
        (set_first(iscrowd=2), "annotation 1: iscrowd is 2, not 0 or 1"),
        (set_first(area="x"), "annotation 1: the area is 'x', not a number"),
        (set_first(area=float("nan")), "annotation 1: the area is nan"),
        (
            set_first(segmentation=[[0, 0, 9e6, 0, 9, 9]]),
            "annotation 1 of 0+1000.jpg reaches far outside of 64 x 48",
        ),
        (
            set_first(segmentation={"size": [4, 4], "counts": [16]}),
            "annotation 1 of .* has size 4 x 4, the image 64 x 48",
        ),
        (
            set_first(segmentation={"size": [64, 48], "counts": [16]}),
            "run lengths of 16 pixels for a size of 64 x 48",
        ),
        (
            set_first(segmentation={"size": [64, 48], "counts": "zzzzz"}),
            "annotation 1 of 0+1000.jpg is no mask in compressed",
        ),
        (
            # There are 3072 pixels up to the NUL by our count; pycocotools ends there.
            set_first(segmentation={"size": [64, 48], "counts": "Xo0\\P1`0\0"}),
            "annotation 1 of 0+1000.jpg is no mask in compressed run lengths of 64 x 48",
        ),
        (
            set_first(segmentation={"size": [64, 48], "counts": "PPPPPPPP0PP3"}),
            "annotation 1 of 0+1000.jpg is no mask in compressed",
        ),
        (
            set_first(segmentation={"size": [64, 48], "counts": [3000, 73]}),
            "run lengths of 3,073 pixels for a size of 64 x 48",
        ),
        (lambda table: table.pop("categories"), "categories is missing, not a list"),
        (lambda table: table["categories"].pop(), "lacks 1 of the 80 categories: 90"),
        (
            lambda table: table["images"].append(table["images"][0]),
            "two images have one id",
        ),
        (
            lambda table: table["annotations"][0].pop("category_id"),
            "an annotation lacks image_id or category_id",
        ),
        (lambda table: table["annotations"].clear(), "none of its 3 train"),
    ],
)
def test_annotations_that_are_wrong_are_named(folders, change, match):
    write(folders, change)
    assert_refused(folders, match)


def test_panoptic_archive_under_the_name_is_refused(folders):
    write(folders)
    panoptic = folders[0] / coco_archives.ANNOTATIONS
    (folders[0] / INSTANCES).write_bytes(panoptic.read_bytes())
    assert_refused(folders, f"{INSTANCES} is another archive under that name")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"<html>", "1000.jpg is no picture that can be read"),
        (None, "1000.jpg can't be decoded"),
    ],
)
def test_unreadable_photograph_is_named(folders, content, match):
    stem = write(folders)["train"][0].stem
    name = f"train2017/{stem}.jpg"

    def change(files):
        files[name] = content or files[name][:-80]

    coco_archives.edit_zip(folders[0] / TRAIN, change)
    assert_refused(folders, match)


def test_panorama_is_named(folders):
    pictures = coco_archives.draw_pictures(3, size=(30, 5000))
    write(folders, train=pictures)
    assert_refused(folders, "5000.*32")


def test_objects_without_a_pixel_stay_in_validation_alone(folders, caplog):
    def change(table):
        for row in table["annotations"][:1]:
            row["segmentation"] = [[3, 3, 3, 3, 3, 3]]

    pictures = write(folders, change)
    build(folders)
    for split, lacks in (("train", 1), ("validation", 0)):
        wanted = coco_archives.instances_json(pictures[split])["annotations"]
        written = list(records.open_split(folders[1], NAME, split))
        assert sum(len(r.labels) for r in written) == len(wanted) - lacks
    assert "1 objects without a pixel, left out (id 1 of 0" in caplog.text
    assert "1 objects without a pixel, kept for validation (id 1 of 0" in caplog.text
