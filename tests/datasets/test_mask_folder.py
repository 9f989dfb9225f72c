"""A user's photographs and masks are read."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from eomt_jax.datasets import class_lists
from eomt_jax.datasets.splits import random_split
from eomt_jax.pipeline import records
from tests.datasets import map_archives
from tests.datasets.map_archives import (
    encode,
    tar_bytes,
    write_files,
    write_zip,
)
from tests.datasets.mask_folders import CLASSES, build, draw, label_map, read_all

ORIENTATION = 0x0112


def test_records_equal_the_files(tmp_path):
    photographs, masks = draw()
    info = build(tmp_path, photographs, masks, validation=0.25)

    assert info.name == "mine"
    assert info.task == "semantic"
    assert info.num_examples == {"train": 3, "validation": 1}
    assert [(c.id, c.name, c.is_thing) for c in info.classes] == [
        (0, "background", False),
        (1, "road", False),
        (2, "car", False),
    ]
    assert len({c.color for c in info.classes}) == 3
    found = read_all(tmp_path)
    assert sorted(found) == ["0", "1", "2", "3"]
    for name, record in found.items():
        assert record.image_bytes == photographs[f"{name}.jpg"]
        values = map_archives.decode(masks[f"{name}.png"]).astype(int)
        np.testing.assert_array_equal(
            label_map(record), np.where(values == 255, -1, values)
        )


def test_split_is_drawn_by_seed(tmp_path):
    photographs, masks = draw(8)
    stems = [name[:-4] for name in masks]
    for seed in (0, 1):
        folder = tmp_path / f"{seed}"
        build(folder, photographs, masks, validation=0.5, split_seed=seed)
        expected = random_split(stems, shares={"validation": 0.5}, seed=seed)
        for split, names in expected.items():
            source = records.open_split(folder / "out", "mine", split)
            assert [source.image_id(i) for i in range(len(source))] == names


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_with_a_folder_of_their_own_are_paired(tmp_path, kind):
    photographs, _ = draw(folder="photos/day 1/")
    _, masks = draw(folder="masks/")
    paths = {}
    for name, files in (("images", photographs), ("masks", masks)):
        path = tmp_path / f"{name}.{kind}"
        if kind == "zip":
            write_zip(path, files)
        else:
            path.write_bytes(tar_bytes(files))
        paths[name] = str(path)
    info = build(tmp_path, {"no.txt": b""}, {"no.txt": b""}, **paths)

    assert sum(info.num_examples.values()) == 4
    assert sorted(read_all(tmp_path)) == ["0", "1", "2", "3"]


def test_photographs_of_one_name_in_several_folders_are_told_apart(tmp_path):
    photographs, masks = draw(2, folder="a/")
    more = draw(2, folder="b/c/")
    build(tmp_path, {**photographs, **more[0]}, {**masks, **more[1]})
    found = read_all(tmp_path)
    names = {image_id: record.file_name for image_id, record in found.items()}
    assert names == {
        "a_0": "a/0.jpg",
        "a_1": "a/1.jpg",
        "b_c_0": "b/c/0.jpg",
        "b_c_1": "b/c/1.jpg",
    }


@pytest.mark.parametrize("divided", ["both", "images", "masks"])
def test_named_splits(tmp_path, divided):
    photographs, masks = draw(3)
    folders = {"train": ("0", "2"), "validation": ("1",)}

    def place(name, files):
        if divided not in ("both", name):
            return str(write_files(tmp_path / name, files))
        paths = []
        for split, stems in folders.items():
            part = {f: x for f, x in files.items() if f[:-4] in stems}
            path = write_files(tmp_path / f"{name}_{split}", part)
            paths.append(f"{split}={path}")
        return ",".join(paths)

    build(
        tmp_path,
        {},
        {},
        images=place("images", photographs),
        masks=place("masks", masks),
    )
    for split, stems in folders.items():
        source = records.open_split(tmp_path / "out", "mine", split)
        assert [source.image_id(i) for i in range(len(source))] == list(stems)


def test_splits_of_any_name_and_one_drawn_from_training(tmp_path):
    photographs, masks = draw(5)
    paths = {}
    for name, files in (("images", photographs), ("masks", masks)):
        parts = {"train": {}, "night": {}}
        for file, content in files.items():
            parts["night" if file[0] == "4" else "train"][file] = content
        folders = {
            s: write_files(tmp_path / f"{name}_{s}", f) for s, f in parts.items()
        }
        paths[name] = ",".join(f"{s}={folder}" for s, folder in folders.items())
    info = build(tmp_path, {}, {}, **paths, test="0.25")
    assert info.num_examples == {"train": 3, "night": 1, "test": 1}
    drawn = records.open_split(tmp_path / "out", "mine", "test")[0]
    assert drawn.image_bytes == photographs[f"{drawn.image_id}.jpg"]


def test_dataset_for_training_alone(tmp_path):
    assert build(tmp_path, *draw(2), validation=0).num_examples == {"train": 2}


def test_class_list_as_json_has_ids_and_colors(tmp_path):
    rows = [
        {"id": 7, "name": "road", "color": [1, 2, 3]},
        {"id": 1000, "name": "Straße"},
    ]
    photographs, _ = draw(2)
    values = np.full((24, 32), 7, np.uint16)
    values[:9] = 1000
    values[9] = 65535
    masks = {"0.png": encode(values), "1.png": encode(values)}
    info = build(
        tmp_path, photographs, masks, class_list=json.dumps(rows), ignore_label="65535"
    )

    assert [(c.id, c.name) for c in info.classes] == [(7, "road"), (1000, "Straße")]
    assert info.classes[0].color == (1, 2, 3)
    expected = np.zeros((24, 32), int)
    expected[:9], expected[9] = 1, -1
    np.testing.assert_array_equal(label_map(read_all(tmp_path)["0"]), expected)


def turned_photograph(orientation):
    """Returns (JPEG that EXIF turns, its stored pixels), bright in one corner."""
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(pixels, "JPEG", exif=exif, quality=95), pixels


def test_photograph_is_turned_where_its_mask_is(tmp_path, caplog):
    photographs, masks = draw(3)
    photographs["0.jpg"], _ = turned_photograph(6)  # a quarter to the right
    values = np.ones((32, 24), np.uint8)
    values[:8, -8:] = 2  # where the bright corner goes
    masks["0.png"] = encode(values)
    build(tmp_path, photographs, masks)

    record = read_all(tmp_path)["0"]
    pixels = map_archives.decode(record.image_bytes)
    assert (record.height, record.width) == pixels.shape[:2] == (32, 24)
    assert Image.open(io.BytesIO(record.image_bytes)).getexif().get(ORIENTATION, 1) == 1
    is_bright = pixels.mean(-1) > 128
    np.testing.assert_array_equal(label_map(record) == 2, is_bright)
    assert "1 photographs turned as their EXIF says (0)" in caplog.text


def test_photograph_is_not_turned_where_its_mask_is_not(tmp_path, caplog):
    photographs, masks = draw(3)
    photographs["0.jpg"], _ = turned_photograph(6)
    build(tmp_path, photographs, masks)
    record = read_all(tmp_path)["0"]
    assert record.image_bytes == photographs["0.jpg"]
    assert (record.height, record.width) == (24, 32)
    assert "1 photographs left as stored though EXIF says to turn them (0)" in (
        caplog.text
    )


def test_photograph_upside_down_is_turned_as_tools_show_it(tmp_path):
    photographs, masks = draw(3)
    photographs["0.jpg"], stored = turned_photograph(3)
    build(tmp_path, photographs, masks)
    pixels = map_archives.decode(read_all(tmp_path)["0"].image_bytes)
    assert (abs(pixels.astype(int) - stored[::-1, ::-1]) < 50).all()


def test_masks_of_one_class_stay_and_those_of_none_are_left_out(tmp_path, caplog):
    photographs, masks = draw(4)
    masks["0.png"] = encode(np.ones((24, 32), np.uint8))
    masks["1.png"] = encode(np.full((24, 32), 255, np.uint8))
    info = build(tmp_path, photographs, masks)

    assert sum(info.num_examples.values()) == 3
    assert read_all(tmp_path)["0"].labels.tolist() == [1]
    assert "1 images without a labelled pixel, left out (1)" in caplog.text


def test_classes_that_no_mask_shows_are_named(tmp_path, caplog):
    photographs, masks = draw(2)
    values = np.zeros((24, 32), np.uint8)
    values[3] = 255  # as many tools save a mask of two classes
    masks = dict.fromkeys(masks, encode(values))
    build(tmp_path, photographs, masks)
    assert "2 classes that no image shows (car, road)" in caplog.text
    assert (
        "2 masks with the value 255 (--ignore_label), taken for no class; if it stands "
        "for road, add --remap=255=1 and prepare again with --overwrite (0.png, 1.png)"
    ) in caplog.text


def test_class_that_is_the_only_one_is_named(tmp_path, caplog):
    masks = dict.fromkeys(draw(2)[1], encode(np.zeros((24, 32), np.uint8)))
    build(tmp_path, draw(2)[0], masks, class_list="red")
    assert "1 class alone in --classes, so that every pixel is taken for it" in (
        caplog.text
    )


def test_splits_may_have_digits_and_underscores(tmp_path):
    paths = {"images": draw(2)[0], "masks": draw(2)[1]}
    paths = {k: f"Night_2={write_files(tmp_path / k, v)}" for k, v in paths.items()}
    assert build(tmp_path, {}, {}, **paths).num_examples == {"Night_2": 2}
    assert len(records.open_split(tmp_path / "out", "mine", "Night_2")) == 2


def test_other_files_in_the_folders_are_named(tmp_path, caplog):
    photographs, masks = draw(2)
    build(tmp_path, {**photographs, "Thumbs.db": b"x"}, masks)
    assert "that are no photograph, left out (Thumbs.db)" in caplog.text


def test_preparing_again_with_other_options_is_refused(tmp_path):
    photographs, masks = draw(4)
    first = build(tmp_path, photographs, masks)
    same = build(tmp_path, photographs, masks, ignore_label="255", split_seed=0)
    assert same == first
    for options, match in [
        (
            {"validation": "0.5"},
            "other options: --validation not given, now 0.5. --over",
        ),
        (
            {"remap": "1=0", "test": 0.25},
            "--remap not given, now 1=0; --test not given, now 0.25",
        ),
        ({"class_list": "a\nb\nc\n"}, "--classes classes.txt .contents .*, now class"),
        ({"images": f"train={tmp_path / 'photos'}"}, "--images /.*, now train=/"),
    ]:
        with pytest.raises(ValueError, match=match):
            build(tmp_path, photographs, masks, **{"class_list": CLASSES, **options})
    again = build(tmp_path, photographs, masks, validation=0.5, overwrite=True)
    assert again.num_examples == {"train": 2, "validation": 2}


def test_dataset_of_an_earlier_version_is_kept(tmp_path):
    info = build(tmp_path, *draw(2))
    file = tmp_path / "out/mine/1.0.0/metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["eomt_options"]
    file.write_text(json.dumps(metadata))
    assert build(tmp_path, *draw(2), remap="1=0") == info


def test_class_list_may_end_in_empty_lines_and_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfroad \r\ncar\r\n\r\n")
    assert [c.name for c in class_lists.read_class_list(path).classes] == [
        "road",
        "car",
    ]
