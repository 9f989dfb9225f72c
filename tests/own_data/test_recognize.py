"""Folders and JSONs are taken for what they hold, or refused in a sentence."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from eomt_jax.own_data.recognize import recognize

POLYGON = [[1, 1, 6, 1, 6, 6]]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
        return
    file = io.BytesIO()
    ending = {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
    Image.fromarray(np.asarray(content, np.uint8)).save(file, ending)
    path.write_bytes(file.getvalue())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns the working folder, with three photographs of 8 × 8 pixels."""
    for name in "abc":
        write(tmp_path / f"photos/{name}.jpg", np.zeros((8, 8, 3)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mask(*values):
    array = np.zeros((8, 8))
    for i, value in enumerate(values):
        array[2 * i, 2] = value
    return array


def coco(**annotation):
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"image_id": 1, **annotation}],
            "categories": [{"id": 1, "name": "bolt"}],
        }
    )


def test_recognize_masks_of_classes(folder):
    for name, values in {"a": (1, 3), "b": (3,), "c": (1, 255)}.items():
        write(folder / f"masks/{name}.png", mask(*values))
    found = recognize(["photos", "masks"])
    assert (found.format, found.task) == ("mask_folder", "semantic")
    assert found.options == {"images": "photos", "masks": "masks", "ignore_label": 255}
    assert [row["id"] for row in json.loads(found.class_list)] == [0, 1, 3]
    assert recognize(["masks", "photos"]) == found
    assert "3 classes as numbers: semantic" in found.sentence

    write(folder / "classes.txt", "sky\nroad\ncar\nman\n")
    listed = recognize(["photos", "masks"])
    assert listed.options["classes"] == str(folder / "classes.txt")
    assert not listed.class_list
    assert recognize(["photos", "masks"], remap="3=1").options["remap"] == "3=1"
    objects = recognize(["photos", "masks"], task="instance")
    assert objects.format == "instance_folder"


def test_recognize_masks_of_objects(folder):
    for name, values in {"a": (1,), "b": (1, 2, 3), "c": ()}.items():
        write(folder / f"masks/{name}_mask.png", mask(*values))
    found = recognize(["photos", "masks"])
    assert (found.format, found.task) == ("instance_folder", "instance")
    assert json.loads(found.class_list) == [{"id": 1, "name": "object"}]
    assert "--task=semantic" in found.sentence


def test_recognize_a_folder_of_masks_for_each_class(folder):
    for kind in ("nut", "bolt"):
        write(folder / f"masks/{kind}/a.png", mask(1, 2))
    found = recognize(["photos", "masks"])
    assert (found.format, found.task) == ("instance_folder", "instance")
    assert [row["name"] for row in json.loads(found.class_list)] == ["bolt", "nut"]


def test_recognize_instances_json_with_and_beside_its_photographs(folder):
    write(folder / "labels.json", coco(category_id=1, segmentation=POLYGON))
    found = recognize(["labels.json", "photos"])
    assert (found.format, found.task) == ("coco_format", "instance")
    assert found.options == {"images": "photos", "annotations": "labels.json"}
    write(folder / "photos/labels.json", coco(category_id=1, segmentation=POLYGON))
    for paths in ("photos", ["photos/labels.json"]):
        assert recognize(paths).options == {
            "images": "photos",
            "annotations": "photos/labels.json",
        }
    split = "train=labels.json,validation=labels.json"
    assert recognize(["photos", split]).options["annotations"] == split


def test_recognize_panoptic_json_finds_its_pngs(folder):
    write(folder / "scenes.json", coco(segments_info=[{"id": 1, "category_id": 1}]))
    with pytest.raises(ValueError, match="its PNGs are not in scenes"):
        recognize(["photos", "scenes.json"])
    write(folder / "scenes/a.png", np.zeros((8, 8, 3)))
    wanted = {"images": "photos", "annotations": "scenes.json", "segments": "scenes"}
    for paths in (["photos", "scenes.json"], ["scenes", "scenes.json", "photos"]):
        found = recognize(paths)
        assert (found.task, found.options) == ("panoptic", wanted)


def test_recognize_labels_of_annotation_tools(folder):
    write(folder / "yolo/data.yaml", "names: [bolt]")
    write(folder / "labelme/a.json", json.dumps({"shapes": [], "imagePath": "a.jpg"}))
    write(folder / "cvat/annotations.xml", "<annotations/>")
    for tool, file in (
        ("yolo", "yolo/data.yaml"),
        ("yolo", "yolo"),
        ("labelme", "labelme"),
        ("cvat", "cvat"),
        ("cvat", "cvat/annotations.xml"),
    ):
        found = recognize(file)
        assert (found.format, found.task) == (tool, "instance")
        assert found.options == {"annotations": file}
        options = {"annotations": file, "images": "photos"}
        assert recognize(["photos", file]).options == options
    with pytest.raises(ValueError, match="2 paths are given, of yolo, cvat: give"):
        recognize(["yolo", "cvat"])


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["nowhere", "photos"], "nowhere is neither a folder nor a file"),
        (["photos"], "photos holds photographs and no mask or JSON: give"),
        (["photos", "photos", "photos"], "3 folders or archives are given: give"),
        (["photos", "other.txt"], "other.txt is a file of another kind: give"),
        (["photos", "none.json"], "there is no file none.json"),
        (["photos", "other.json"], "other.json is no COCO JSON: it has the fields sha"),
        (["photos", "list.json"], "list.json is no COCO JSON: it has list, where"),
        (["photos", "torn.json"], "torn.json is no JSON that can be read"),
        (["photos", "boxes.json"], "boxes.json has boxes and no masks: export"),
        (["photos", "bare.json"], "bare.json has no annotation"),
        (["photos", "good.json", "photos"], "photos is one path too many"),
        (["photos", "good.json", "boxes.json"], "are two JSONs: give one, or train="),
        (["photos", "masks"], "3 files in photos have none in masks"),
    ],
)
def test_recognize_other_files_are_refused(folder, paths, message):
    write(folder / "other.txt", "text")
    write(folder / "other.json", json.dumps({"shapes": [], "imagePath": "a.jpg"}))
    write(folder / "list.json", "[]")
    write(folder / "torn.json", '{"images": [')
    write(folder / "boxes.json", coco(category_id=1, bbox=[1, 1, 5, 5]))
    write(folder / "bare.json", '{"images": [], "annotations": [], "categories": []}')
    write(folder / "good.json", coco(category_id=1, segmentation=POLYGON))
    write(folder / "masks/z.png", mask(1))
    with pytest.raises(ValueError, match=message):
        recognize(paths)


def test_recognize_options_of_another_format_are_refused(folder):
    write(folder / "good.json", coco(category_id=1, segmentation=POLYGON))
    with pytest.raises(ValueError, match="coco_format has no option --remap"):
        recognize(["photos", "good.json"], remap="1=2")
    with pytest.raises(ValueError, match="coco_format has no option --classes"):
        recognize(["photos", "good.json"], classes="classes.txt")
