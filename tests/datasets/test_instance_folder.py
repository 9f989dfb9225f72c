"""A user's photographs with PNGs of numbered objects are read."""

import numpy as np
import pytest

from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets.map_archives import encode, photograph, write_files

SIZE = (24, 32)


def draw_objects(*ids, seed=0, dtype=np.uint8):
    """Returns a map of rectangles with these numbers on 0."""
    values = np.zeros(SIZE, dtype)
    for i, object_id in enumerate(ids):
        values[4 * i : 4 * i + 3, seed : seed + 9] = object_id
    return values


@pytest.fixture
def photographs():
    rng = np.random.default_rng(0)
    return {f"{i}.jpg": photograph(rng, SIZE) for i in range(3)}


def build(folder, photographs, masks, *, classes="cell\n", table="", **options):
    (folder / "classes.txt").write_text(classes)
    if table:
        (folder / "table.csv").write_text(table)
        options["object_classes"] = str(folder / "table.csv")
    return prepare.prepare(
        "mine",
        folder / "out",
        builder="instance_folder",
        images=str(write_files(folder / "photos", photographs)),
        masks=str(write_files(folder / "masks", masks)),
        classes=str(folder / "classes.txt"),
        **options,
    )


def read_all(folder):
    """Returns (label, mask) of all objects, by image id."""
    found = {}
    info = records.read_info(folder / "out", "mine")
    for split in info.num_examples:
        for record in records.open_split(folder / "out", "mine", split):
            masks = np.moveaxis(record.masks(), -1, 0)
            assert record.file_name == f"{record.image_id}.jpg"
            assert record.areas.tolist() == [mask.sum() for mask in masks]
            found[record.image_id] = list(
                zip(record.labels.tolist(), masks, strict=True)
            )
    return found


def assert_objects(found, expected):
    """Compares with `expected`, (label, mask) in any order."""
    assert len(found) == len(expected)
    for label, mask in expected:
        assert any(l == label and np.array_equal(m, mask) for l, m in found)


def test_objects_of_the_only_class(tmp_path, photographs, caplog):
    maps = {
        "0_mask": draw_objects(1, 7, 300, dtype=np.uint16),
        "1_mask": draw_objects(255),
        "2_mask": draw_objects(3, 255, seed=4),
    }
    masks = {f"{name}.png": encode(values) for name, values in maps.items()}
    info = build(tmp_path, photographs, masks, ignore_label=255, validation=0.4)
    assert info.task == "instance"
    assert [(c.name, c.is_thing) for c in info.classes] == [("cell", True)]
    # A mask of only 255 has nothing to learn; it is left out of the training split.
    found = read_all(tmp_path)
    assert_objects(found["0"], [(0, maps["0_mask"] == i) for i in (1, 7, 300)])
    assert_objects(found["2"], [(0, maps["2_mask"] == 3)])
    assert "2 masks with 255 (--ignore_label), no object (" in caplog.text


def test_objects_by_color(tmp_path, photographs):
    values = draw_objects(1, 2)
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 9, 255)], np.uint8)[values]
    masks = {f"{i}.png": encode(colors) for i in range(3)}
    build(tmp_path, photographs, masks)
    for found in read_all(tmp_path).values():
        assert_objects(found, [(0, values == 1), (0, values == 2)])


def test_classes_by_folder(tmp_path, photographs):
    maps = {
        "car/0": draw_objects(1, 2),
        "Person/0": draw_objects(1, seed=15),
        "person/1": draw_objects(5),
        "car/2": draw_objects(9),
    }
    masks = {f"export/{name}.png": encode(values) for name, values in maps.items()}
    build(tmp_path, photographs, masks, classes="person\ncar\n")
    found = read_all(tmp_path)
    cars, person = maps["car/0"], maps["Person/0"]
    assert_objects(found["0"], [(1, cars == 1), (1, cars == 2), (0, person == 1)])
    assert_objects(found["1"], [(0, maps["person/1"] == 5)])
    assert_objects(found["2"], [(1, maps["car/2"] == 9)])


@pytest.mark.parametrize(
    "table",
    [
        "file,id,class\n0.png,1,car\n0.jpg, 2,person\n1,1,0\nmasks\\2.PNG,1,1\n",
        "id,class\n1,car\n2,person\n",
    ],
)
def test_classes_by_table(tmp_path, photographs, table):
    maps = [draw_objects(1, 2), draw_objects(1), draw_objects(1, seed=9)]
    masks = {f"{i}.png": encode(values) for i, values in enumerate(maps)}
    build(tmp_path, photographs, masks, classes="person\ncar\n", table=table)
    found = read_all(tmp_path)
    assert_objects(found["0"], [(1, maps[0] == 1), (0, maps[0] == 2)])
    assert_objects(found["1"], [(0 if "file" in table else 1, maps[1] == 1)])
    assert_objects(found["2"], [(1, maps[2] == 1)])


def test_photographs_without_objects_are_left_out_unless_asked(
    tmp_path, photographs, caplog
):
    masks = {f"{i}.png": encode(draw_objects(*([1] * (i > 0)))) for i in range(3)}
    info = build(tmp_path, photographs, masks, validation=0)
    assert info.num_examples == {"train": 2}
    assert "1 train photographs without an object, left out; --negatives keeps" in (
        caplog.text
    )
    del masks["0.png"]
    (tmp_path / "masks/0.png").unlink()
    options = {"validation": 0, "negatives": True, "overwrite": True}
    info = build(tmp_path, photographs, masks, **options)
    assert info.num_examples == {"train": 3}
    assert read_all(tmp_path)["0"] == []
    assert "1 train photographs without an object, kept as negatives (0)" in caplog.text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"classes": "a\nb\n"}, "nothing says the class of the objects in .*.png: put"),
        ({"table": "id,class\n2,cell\n"}, "0.png has the object 1, whose class --obj"),
        ({"table": "id,class\nx,cell\n"}, "line 2: .* has no whole number as id"),
        ({"table": "id,class\n1,dog\n"}, "line 2: .* none of cell as class"),
        ({"table": "id,class\n"}, "table.csv has no rows below its columns"),
        ({"table": "id,class\n1,cell\n1,0\n", "classes": "x\ncell\n"}, "two classes"),
        ({"object_classes": "nowhere.csv"}, "--object_classes=nowhere.csv is no file"),
        ({"masks": {"0.png": encode(draw_objects(1))}}, "2 files in .* have none in"),
        (
            {"masks": {f"{i}.png": encode(draw_objects(1).T) for i in range(3)}},
            "0.png has 32 x 24 pixels, but its photograph has 24 x 32",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, photographs, options, match):
    masks = {f"{i}.png": encode(draw_objects(1)) for i in range(3)}
    with pytest.raises(ValueError, match=match):
        build(tmp_path, photographs, **{"masks": masks, **options})
    assert [f for f in (tmp_path / "out").rglob("*") if f.is_file()] == []
