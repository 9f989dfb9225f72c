"""COCO panoptic is read from miniature archives, and damaged archives are refused."""

import json
import zipfile

import numpy as np
import pytest

from eomt_jax import dataset_info
from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets import coco_archives
from tests.datasets.coco_archives import ANNOTATIONS, TRAIN, VAL

NAME = "coco_panoptic"


@pytest.fixture
def folders(tmp_path):
    """Returns (archives, data_dir)."""
    return tmp_path / "archives", tmp_path / "prepared"


def build(folders):
    archives, data_dir = folders
    return prepare.prepare(NAME, data_dir, archives=archives)


def assert_nothing_left(data_dir):
    assert records.prepared_versions(data_dir, NAME) == []
    assert [f for f in data_dir.rglob("*") if f.is_file()] == []


def test_segment_id_twice_in_an_image_is_refused(folders):
    def change(table):
        row = table["annotations"][0]
        row["segments_info"].append({**row["segments_info"][0], "category_id": 2})

    coco_archives.write_archives(folders[0], edit_json=change)
    match = r"image_id 1000 \(.*1000.jpg\) has two segments with the id"
    with pytest.raises(ValueError, match=match):
        build(folders)
    assert_nothing_left(folders[1])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_records_equal_the_archives(folders, compression):
    archives, data_dir = folders
    pictures = coco_archives.write_archives(archives, inner_compression=compression)
    info = build(folders)

    assert info.num_examples == {"train": 3, "validation": 2}
    assert info.max_image_size == (64, 64)
    assert info.max_segments == max(
        len(p.segments) for split in pictures.values() for p in split
    )
    assert info.classes == dataset_info.load_classes(NAME)
    for split, archive in (("train", TRAIN), ("validation", VAL)):
        source = records.open_split(data_dir, NAME, split)
        by_id = {p.stem: p for p in pictures[split]}
        assert sorted(source.image_id(i) for i in range(len(source))) == sorted(by_id)
        for i in range(len(source)):
            assert_record_equals(source[i], by_id[source[i].image_id], info)
        with zipfile.ZipFile(archives / archive) as photographs:
            published = photographs.read(f"{archive[:-4]}/{source[0].image_id}.jpg")
            assert source[0].image_bytes == published


def assert_record_equals(record, picture, info):
    assert (record.height, record.width) == picture.id_map.shape
    np.testing.assert_array_equal(record.segment_map == 0, picture.id_map == 0)
    assert len(record.labels) == len(picture.segments)
    for number, segment in enumerate(picture.segments):
        np.testing.assert_array_equal(
            record.segment_map == number + 1, picture.id_map == segment["id"]
        )
        assert info.classes[record.labels[number]].id == segment["category_id"]
        assert record.is_crowd[number] == segment["iscrowd"]


def test_segment_id_is_red_plus_256_green_plus_65536_blue(folders):
    archives, data_dir = folders
    picture = coco_archives.draw_pictures(1)[0]
    picture.segments = [
        {"id": id_, "category_id": 1, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]}
        for id_ in (3, 3 * 256, 3 * 65536, 1 + 2 * 256 + 5 * 65536)
    ]
    picture.id_map[:] = 0
    picture.id_map[0, :4] = [s["id"] for s in picture.segments]
    coco_archives.write_archives(archives, train=[picture])
    build(folders)

    segment_map = records.open_split(data_dir, NAME, "train")[0].segment_map
    assert segment_map[0, :5].tolist() == [1, 2, 3, 4, 0]
    assert segment_map.astype(int).sum() == 10


def test_images_without_segments_or_annotation_are_left_out_and_named(folders, caplog):
    archives, data_dir = folders
    pictures = coco_archives.write_archives(archives)["train"]

    def change(table):
        if len(table["annotations"]) == 3:
            table["annotations"][0]["segments_info"] = []
            del table["annotations"][1]

    coco_archives.write_archives(archives, edit_json=change)
    info = build(folders)

    assert info.num_examples == {"train": 1, "validation": 2}
    kept = records.open_split(data_dir, NAME, "train")
    assert kept.image_id(0) == pictures[2].stem
    assert f"1 train photographs without a segment, left out ({pictures[0].stem})" in (
        caplog.text
    )
    assert f"without annotation, left out (train2017/{pictures[1].stem}.jpg)" in (
        caplog.text
    )


def test_json_and_png_that_disagree_are_settled_and_named(folders, caplog):
    archives, data_dir = folders
    pictures = coco_archives.draw_pictures(3)
    changed = pictures[1]
    changed.id_map[changed.id_map == changed.segments[0]["id"]] = 77  # not in the JSON
    coco_archives.write_archives(archives, train=pictures)
    build(folders)

    train = records.open_split(data_dir, NAME, "train")
    record = next(r for r in train if r.image_id == changed.stem)
    assert len(record.labels) == len(changed.segments) - 1
    np.testing.assert_array_equal(
        record.segment_map == 1, changed.id_map == changed.segments[1]["id"]
    )
    np.testing.assert_array_equal(
        record.segment_map == 0, np.isin(changed.id_map, [0, 77])
    )
    assert f"segments that the JSON lacks, now void ({changed.stem})" in caplog.text
    assert f"segments without a pixel, left out ({changed.stem})" in caplog.text


def test_missing_archives_are_all_named_with_where_to_get_them(folders):
    archives, data_dir = folders
    coco_archives.write_archives(archives)
    (archives / TRAIN).unlink()
    (archives / ANNOTATIONS).unlink()

    with pytest.raises(ValueError, match="missing from") as error:
        build(folders)
    assert f"http://images.cocodataset.org/zips/{TRAIN}" in str(error.value)
    assert f"cocodataset.org/annotations/{ANNOTATIONS}" in str(error.value)
    assert f"zips/{VAL}" not in str(error.value)
    assert_nothing_left(data_dir)


def test_no_archives_folder_is_refused(folders):
    with pytest.raises(ValueError, match="pass --archives=DIR"):
        prepare.prepare(NAME, folders[1])
    with pytest.raises(ValueError, match="is no folder"):
        build(folders)


@pytest.mark.parametrize("name", [TRAIN, VAL, ANNOTATIONS])
def test_truncated_archive_is_named(folders, name):
    archives, data_dir = folders
    coco_archives.write_archives(archives)
    whole = (archives / name).read_bytes()
    (archives / name).write_bytes(whole[: len(whole) * 2 // 3])

    with pytest.raises(ValueError, match=f"^{name} is truncated.*get it .* from http"):
        build(folders)
    assert_nothing_left(data_dir)


def test_another_archive_under_the_name_is_refused(folders):
    archives, data_dir = folders
    coco_archives.write_archives(archives)
    (archives / TRAIN).write_bytes((archives / VAL).read_bytes())

    with pytest.raises(ValueError, match=f"{TRAIN} is another archive.*val2017/"):
        build(folders)
    assert_nothing_left(data_dir)


def test_annotated_photograph_that_is_missing_is_named(folders):
    archives, data_dir = folders
    stem = coco_archives.write_archives(archives)["validation"][1].stem
    lost = f"val2017/{stem}.jpg"
    coco_archives.edit_zip(archives / VAL, lambda files: files.pop(lost))

    with pytest.raises(
        ValueError, match=f"annotates 1 files that {VAL} lacks: {stem}.jpg"
    ):
        build(folders)
    assert_nothing_left(data_dir)


def test_annotation_without_png_is_named(folders):
    archives, data_dir = folders
    stem = coco_archives.write_archives(archives)["train"][2].stem
    lost = f"panoptic_train2017/{stem}.png"
    edit_inner(archives, lambda files: files.pop(lost))

    with pytest.raises(ValueError, match=f"panoptic_train2017.zip lacks: {stem}.png"):
        build(folders)
    assert_nothing_left(data_dir)


def test_truncated_nested_archive_is_named(folders):
    archives, _ = folders
    coco_archives.write_archives(archives)
    inner = "annotations/panoptic_val2017.zip"

    def change(files):
        files[inner] = files[inner][:-30]

    coco_archives.edit_zip(archives / ANNOTATIONS, change)
    with pytest.raises(ValueError, match=f"{ANNOTATIONS}/{inner} is truncated"):
        build(folders)


def test_damaged_photograph_is_named(folders):
    archives, data_dir = folders
    stem = coco_archives.write_archives(archives)["train"][1].stem
    data = bytearray((archives / TRAIN).read_bytes())
    start = data.index(f"{stem}.jpg".encode())
    data[start + 300] ^= 255
    (archives / TRAIN).write_bytes(bytes(data))

    with pytest.raises(ValueError, match=f"train2017/{stem}.jpg in {TRAIN} is damaged"):
        build(folders)
    assert_nothing_left(data_dir)


def test_png_cut_short_is_named(folders):
    archives, data_dir = folders
    stem = coco_archives.write_archives(archives)["train"][0].stem
    name = f"panoptic_train2017/{stem}.png"

    def change(files):
        files[name] = files[name][:-60]

    edit_inner(archives, change)
    with pytest.raises(ValueError, match=f"{stem}.png can't be decoded"):
        build(folders)
    assert_nothing_left(data_dir)


def test_photograph_of_another_size_than_annotated_is_named(folders):
    archives, _ = folders

    def change(table):
        table["images"][0]["width"] += 1

    coco_archives.write_archives(archives, edit_json=change)
    with pytest.raises(ValueError, match=r"pixels, but its annotation says \d+ x \d+"):
        build(folders)


@pytest.mark.parametrize("what", ["instances", "text"])
def test_json_of_another_format_is_refused(folders, what):
    archives, _ = folders
    coco_archives.write_archives(archives)
    name = "annotations/panoptic_train2017.json"

    def change(files):
        table = json.loads(files[name])
        if what == "instances":
            for annotation in table["annotations"]:
                del annotation["segments_info"]
        files[name] = b"{" if what == "text" else json.dumps(table).encode()

    coco_archives.edit_zip(archives / ANNOTATIONS, change)
    with pytest.raises(ValueError, match=f"{name} in {ANNOTATIONS} is not COCO's"):
        build(folders)


def test_category_id_without_category_is_named(folders):
    archives, data_dir = folders

    def change(table):
        table["annotations"][0]["segments_info"][0]["category_id"] = 12

    coco_archives.write_archives(archives, edit_json=change)
    with pytest.raises(ValueError, match="segments of category_id 12, which is not"):
        build(folders)
    assert_nothing_left(data_dir)


def test_missing_categories_are_named(folders):
    archives, data_dir = folders

    def change(table):
        del table["categories"][:80]

    coco_archives.write_archives(archives, edit_json=change)
    with pytest.raises(ValueError, match=r"lacks 80 of the 133 categories: 1 \(person"):
        build(folders)
    assert_nothing_left(data_dir)


def edit_inner(archives, change):
    """Changes the nested archive of the PNGs of training."""

    def change_outer(files):
        inner = archives / "inner.zip"
        name = "annotations/panoptic_train2017.zip"
        inner.write_bytes(files[name])
        coco_archives.edit_zip(inner, change)
        files[name] = inner.read_bytes()

    coco_archives.edit_zip(archives / ANNOTATIONS, change_outer)
