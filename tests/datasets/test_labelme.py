"""Labels of Labelme are read: https://github.com/wkentaro/labelme."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.datasets.tool_exports import SIZE, boxes, build, photograph, write


def shape(label, points, kind="polygon", group=None, **more):
    fields = {"label": label, "points": points, "shape_type": kind, "group_id": group}
    return {**fields, "flags": {}, **more}


def base64_png(mask):
    stream = io.BytesIO()
    Image.fromarray(np.array(mask, np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


LEFT = shape("Straße", [[0, 0], [10, 0], [10, 10], [0, 10]])
CORNER = shape("auto", [[12, 6], [14, 9]], "rectangle")


def labels(name, *shapes, **changes):
    """Returns the text of a photograph's JSON."""
    table = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.jpg",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        **changes,
    }
    return json.dumps(table)


def files(*shapes, **changes):
    """Returns two photographs and their JSONs; the first has `shapes`."""
    return {
        "a.jpg": photograph(),
        "a.json": labels("a", *shapes, **changes),
        "b.jpg": photograph(),
        "b.json": labels("b", LEFT, CORNER),
    }


def read_all(tmp_path, content, **options):
    path = write(tmp_path / "labelled", content)
    info, found = build(tmp_path, "labelme", path, validation=0.5, **options)
    return info, {**found["train"], **found["validation"]}


def test_shapes_become_objects(tmp_path, caplog):
    shapes = [
        LEFT,
        CORNER,
        shape("auto", [[15, 5], [15, 8]], "circle"),
        shape(
            "auto", [[1, 2], [3, 3]], "mask", mask=base64_png([[1, 0, 1], [1, 1, 1]])
        ),
        shape("auto", [[2, 4], [6, 4], [6, 8], [2, 8]], "oriented_rectangle"),
        shape("auto", [[1, 1], [5, 5]], "line"),
        shape("auto", [[1, 1], [5, 5]]),
        shape("__ignore__", [[0, 0], [5, 0], [5, 5]]),
    ]
    info, found = read_all(tmp_path, files(*shapes))
    assert info.task == "instance"
    assert [(c.id, c.name) for c in info.classes] == [(1, "Straße"), (2, "auto")]
    assert boxes(found["a"]) == [
        (0, (0, 0, 10, 10), 100),
        (1, (6, 12, 9, 14), 6),
        (1, (2, 12, 8, 18), 32),  # as pycocotools draws it
        (1, (2, 1, 4, 4), 5),
        (1, (4, 2, 8, 6), 16),
    ]
    assert "2 annotations without a mask, left out (id 6 of image a, id 7 of im" in (
        caplog.text
    )
    assert "1 polygons of fewer than three corners" in caplog.text
    assert "1 shapes with the label __ignore__, left out (a.json" in caplog.text


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    stem = base64_png([[1, 1]])
    shapes = [
        shape("auto", [[0, 0], [2, 2]], "rectangle", group=0),
        shape("auto", [[8, 8], [9, 8]], "mask", group=0, mask=stem),
        shape("auto", [[4, 0], [6, 2]], "rectangle", group=1),
        shape("Straße", [[0, 4], [2, 6]], "rectangle", group=0),
        shape("auto", [[4, 4], [6, 6]], "rectangle"),
    ]
    _, found = read_all(tmp_path, files(*shapes))
    assert boxes(found["a"]) == [
        (1, (0, 0, 9, 10), 6),
        (1, (0, 4, 2, 6), 4),
        (0, (4, 0, 6, 2), 4),
        (1, (4, 4, 6, 6), 4),
    ]


@pytest.mark.parametrize("place", ["Windows' folder", "the JSON's name", "inside"])
def test_photograph_is_found(tmp_path, place):
    image = photograph()
    content = {
        "Windows' folder": {
            "json/a.json": labels("a", LEFT, imagePath="..\\photos\\Á.jpg"),
            "photos/Á.jpg": image,
        },
        "the JSON's name": {
            "json/a.json": labels("a", LEFT, imagePath="/home/me/IMG_1.jpg"),
            "json/a.jpg": image,
        },
        "inside": {
            "json/a.json": labels(
                "a", LEFT, imageData=base64.b64encode(image).decode()
            ),
        },
    }[place]
    content |= {"json/b.jpg": image, "json/b.json": labels("b", CORNER)}
    _, found = read_all(tmp_path, content)
    assert found["json_a"].image_bytes == image
    assert boxes(found["json_a"]) == [(0, (0, 0, 10, 10), 100)]


def test_photographs_elsewhere_and_a_class_list(tmp_path):
    content = {"train/a.json": labels("a", LEFT), "val/b.json": labels("b", CORNER)}
    path = write(tmp_path / "labels", content)
    photographs = {"a.jpg": photograph(), "b.jpg": photograph()}
    classes = write(tmp_path / "own", {"labels.txt": "sky\nAuto\nstraße\n"})
    info, found = build(
        tmp_path,
        "labelme",
        f"train={path / 'train'},val={path / 'val'}",
        images=write(tmp_path / "photos", photographs, zipped=True),
        classes=classes / "labels.txt",
    )
    assert [(c.id, c.name) for c in info.classes] == [
        (0, "sky"),
        (1, "Auto"),
        (2, "straße"),
    ]
    assert found["train"]["a"].labels.tolist() == [2]
    assert found["validation"]["b"].labels.tolist() == [1]


def test_photograph_without_a_shape_is_a_negative_on_request(tmp_path):
    path = write(tmp_path / "labelled", files())
    _, found = build(tmp_path, "labelme", path, validation=0, negatives=True)
    assert {name: len(r.labels) for name, r in found["train"].items()} == {
        "a": 0,
        "b": 2,
    }


def test_photograph_is_turned_as_labelme_shows_it(tmp_path):
    content = files(LEFT, imageHeight=20, imageWidth=10)
    content["a.jpg"] = photograph(orientation=6)
    _, found = read_all(tmp_path, content)
    assert (found["a"].height, found["a"].width) == (20, 10)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shapes": 3}, "a.json in .* is no JSON of Labelme: it has no list of shapes"),
        ({"shapes": [{"label": "x", "points": [[1, "y"]]}]}, "shape 1: its points are"),
        ({"shapes": [shape("x", [[0, 0]], "star")]}, "shape_type is 'star' with 1 po"),
        (
            {"shapes": [shape("x", [[0, 0], [1, 1]], "mask", mask="?")]},
            "no file in bas",
        ),
        ({"shapes": [shape("", [])]}, "shape 1: label is ''"),
        ({"imageHeight": -1}, "imageHeight is -1"),
        ({"imagePath": "c.jpg"}, "annotates 1 files that .* lacks: c.jpg"),
    ],
)
def test_json_of_another_form_is_refused_by_name(tmp_path, changes, match):
    content = files(LEFT, **changes)
    if "imagePath" in changes:
        del content["a.jpg"]
    with pytest.raises(ValueError, match=match):
        read_all(tmp_path, content)


def test_labels_beside_the_class_list_are_refused(tmp_path):
    classes = write(tmp_path / "own", {"labels.txt": "auto\n"}) / "labels.txt"
    with pytest.raises(
        ValueError, match=r"the labels Straße, which are not in the cla"
    ):
        read_all(tmp_path, files(LEFT), classes=classes)


def test_folder_without_a_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no JSON of Labelme"):
        read_all(tmp_path, {"a.jpg": photograph()})
