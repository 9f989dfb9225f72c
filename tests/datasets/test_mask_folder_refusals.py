"""A user's photographs and masks are refused with a reason."""

import numpy as np
import pytest

from eomt_jax.datasets.class_lists import read_class_list
from eomt_jax.pipeline import records
from tests.datasets.map_archives import encode, photograph, write_files
from tests.datasets.mask_folders import build, draw


def assert_refused(tmp_path, message, *args, **options):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, *args, **options)
    assert records.prepared_versions(tmp_path / "out", "mine") == []
    assert [f for f in (tmp_path / "out").rglob("*") if f.is_file()] == []


def test_one_photograph_in_two_splits_is_refused(tmp_path):
    photographs, masks = draw(2)
    first = write_files(tmp_path / "first", masks)
    second = write_files(tmp_path / "second", {"1.png": masks["1.png"]})
    assert_refused(
        tmp_path,
        "train and validation share 1: 1",
        photographs,
        {},
        masks=f"train={first},validation={second}",
    )


def test_splits_that_differ_are_refused(tmp_path):
    photographs, masks = draw(2)
    write_files(tmp_path / "photos", photographs)
    assert_refused(
        tmp_path,
        "--images has the splits train, --masks train, validation; give both",
        photographs,
        masks,
        images=f"train={tmp_path / 'photos'}",
        masks=f"train={tmp_path / 'masks'},validation={tmp_path / 'masks'}",
    )


def test_files_without_partner_are_all_listed(tmp_path):
    photographs, masks = draw()
    photographs["lost.jpeg"] = photographs.pop("1.jpg")
    with pytest.raises(ValueError, match="have none in") as error:
        build(tmp_path, photographs, masks)
    first, second = str(error.value).splitlines()
    assert first == (
        f"1 files in {tmp_path / 'photos'} have none in {tmp_path / 'masks'}: lost.jpeg"
    )
    assert second.endswith(f"have none in {tmp_path / 'photos'}: 1.png")


def test_problems_of_many_files_are_told_together(tmp_path):
    photographs, masks = draw(8)
    masks["0.png"] = encode(np.full((24, 32, 3), (1, 2, 3), np.uint8))
    masks["1.png"] = encode(np.zeros((32, 32), np.uint8))
    masks["2.png"] = encode(np.arange(3, 11, dtype=np.uint8).repeat(96).reshape(24, 32))
    masks["3.png"] = masks["3.png"][:-30]
    masks["4.png"] = photographs["4.jpg"]
    masks["7.png"] = masks["7.png"][:20]
    photographs["5.jpg"] = photographs["5.jpg"][:-300]
    photographs["6.jpg"] = b"<html>"
    with pytest.raises(ValueError, match=r"0\.png") as error:
        build(tmp_path, photographs, masks)
    lines = sorted(str(error.value).splitlines())
    assert len(lines) == 8
    for line, expected in zip(
        lines,
        [
            "0.png has colours (#010203), but a label map has the number",
            "1.png has 32 x 32 pixels, but its photograph has 24 x 32",
            "2.png has the value 3, 4, 5, 6, 7, which stands for no class; known: 0",
            "3.png can't be decoded",
            "4.png is no PNG",
            "5.jpg can't be decoded",
            "6.jpg is no picture",
            "7.png is no PNG",
        ],
        strict=True,
    ):
        assert line.startswith(expected)
    assert "--remap=others=ignore leaves out all others; PNGs that number" in lines[2]
    assert [f for f in (tmp_path / "out").rglob("*") if f.is_file()] == []


def test_long_and_thin_photograph_is_named(tmp_path):
    photographs, masks = draw(3)
    rng = np.random.default_rng(0)
    photographs["1.jpg"] = photograph(rng, (1, 5000))
    masks["1.png"] = encode(np.ones((1, 5000), np.uint8))
    assert_refused(
        tmp_path, "1 has 1 x 5000 pixels: .* 32 times the other", photographs, masks
    )


@pytest.mark.parametrize(
    ("class_list", "message"),
    [
        ("", "has no classes"),
        ("road\n\ncar", "whole number as id and a text as name"),
        ("road\ncar\nroad", "two classes with the name road"),
        ('[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', "two classes with the id"),
        ('[{"name": "a"}]', "lacks an id"),
        (
            '[{"id": 70000, "name": "a"}]',
            "the id 70000; a PNG has values of 0 to 65535",
        ),
        ('[{"id": 0, "name": "a", "color": [0, 0, 256]}]', "a color is"),
        ('[{"id": 0, "name": "a"}', "is no JSON"),
        ('{"0": "a"}', "is no list"),
    ],
)
def test_class_list_that_is_none_is_refused(tmp_path, class_list, message):
    assert_refused(tmp_path, f"classes.txt.*{message}", *draw(2), class_list=class_list)


def test_csv_without_its_columns_is_no_list_of_names(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("road,128,64,128\ncar,0,0,142\n")
    with pytest.raises(
        ValueError, match="the columns road, 128, 64; its .* name,r,g,b"
    ):
        read_class_list(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore_label": "1"}, "--ignore_label=1 is the class 'road'"),
        ({"ignore_label": "none"}, "--ignore_label has 'none' where a value of 0 to"),
        ({"remap": "3"}, "--remap has '' where a value of 0 to 65535 is wanted, as in"),
        ({"remap": "3=1,3=2"}, "--remap=3=1,3=2: 3 comes twice"),
        ({"remap": "others=1,others=2"}, "others comes twice"),
        ({"mask_name": "mask.png"}, "--mask_name=mask.png is no file name with one {}"),
        ({"mask_name": "{}_gt.png"}, "masks holds no mask called {}_gt.png"),
        ({"remap": "3=7"}, "there is no class 7; the class list has 0 .background."),
        ({"remap": "x=1"}, "--remap has 'x' where a value of 0 to 65535 is wanted"),
        ({"validation": 1.5}, "validation=1.5 is no share"),
        ({"classes": "/nowhere/classes.txt"}, "/nowhere/classes.txt is no file"),
        ({"images": "/nowhere"}, "/nowhere is neither a folder nor a file"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path, options, message):
    assert_refused(tmp_path, message, *draw(2), **options)


def test_folder_without_masks_is_refused(tmp_path):
    photographs, _ = draw(2)
    assert_refused(
        tmp_path, r"masks holds no mask \(\.png\), but 0\.jpg", photographs, photographs
    )


def test_folders_that_give_one_id_are_refused(tmp_path):
    photographs, masks = draw(6)
    for files in (photographs, masks):
        for i, name in enumerate(["a/b_c", "a_b/c", "a/b/c"]):
            old = next(n for n in files if n.startswith(str(i)))
            files[name + old[1:]] = files.pop(old)
    assert_refused(
        tmp_path, "two images of a split have the id a_b_c", photographs, masks
    )


def test_one_folder_for_both_splits_is_refused(tmp_path):
    photographs, masks = draw(2)
    images_path, masks_path = tmp_path / "photos", tmp_path / "masks"
    assert_refused(
        tmp_path,
        "--images gives train and validation the same .*photos: give each its own",
        photographs,
        masks,
        images=f"train={images_path},validation={images_path}",
        masks=f"train={masks_path},validation={masks_path}",
    )
