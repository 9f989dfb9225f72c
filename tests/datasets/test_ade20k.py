"""ADE20K is read from miniature archives, and damaged archives are refused."""

import numpy as np
import pytest

from eomt_jax import dataset_info
from eomt_jax.datasets import prepare
from eomt_jax.pipeline import records
from tests.datasets import map_archives
from tests.datasets.map_archives import INSTANCES_TAR, SCENES, decode, encode

NAMES = ["ade20k_panoptic", "ade20k_semantic"]
NUMBER = {"training": 3, "validation": 2}
ROOT = "ADEChallengeData2016"
FIRST = "training/ADE_tra_00000000"


@pytest.fixture
def drawn():
    """Returns (files of the scenes' archive, files of the instances' archive)."""
    return map_archives.draw_ade20k(NUMBER)


def build(tmp_path, drawn, name, *, tar=True):
    map_archives.write_ade20k(tmp_path / "archives", *drawn, tar=tar)
    return prepare.prepare(
        name, tmp_path / "prepared", archives=str(tmp_path / "archives")
    )


def open_all(tmp_path, name):
    """Returns (folder in the archives, record) of every record."""
    for split, folder in (("train", "training"), ("validation", "validation")):
        for record in records.open_split(tmp_path / "prepared", name, split):
            yield folder, record


def assert_masks_equal(record, expected):
    """Compares with `expected`, (label, mask) of each segment in any order."""
    masks = record.masks()
    found = [(int(n), masks[..., t].tobytes()) for t, n in enumerate(record.labels)]
    assert sorted(found) == sorted((label, m.tobytes()) for label, m in expected)


def assert_nothing_left(tmp_path, name):
    assert records.prepared_versions(tmp_path / "prepared", name) == []
    assert [f for f in (tmp_path / "prepared").rglob("*") if f.is_file()] == []


def test_semantic_records_equal_the_archive(tmp_path, drawn):
    info = build(tmp_path, drawn, "ade20k_semantic")
    scenes, _ = drawn

    assert info.task == "semantic"
    assert info.num_examples == {"train": 3, "validation": 2}
    assert info.max_image_size == (24, 32)
    assert info.classes == dataset_info.load_classes("ade20k_semantic")
    for folder, record in open_all(tmp_path, "ade20k_semantic"):
        name = f"{folder}/{record.image_id}"
        assert record.image_bytes == scenes[f"{ROOT}/images/{name}.jpg"]
        values = decode(scenes[f"{ROOT}/annotations/{name}.png"])
        assert_masks_equal(
            record, [(v - 1, values == v) for v in np.unique(values) if v > 0]
        )
        assert not record.is_crowd.any()


@pytest.mark.parametrize("tar", [True, False])
def test_panoptic_records_equal_the_archives(tmp_path, drawn, tar):
    info = build(tmp_path, drawn, "ade20k_panoptic", tar=tar)
    scenes, instances = drawn
    is_thing = info.is_thing
    things = np.flatnonzero(is_thing)

    assert info.task == "panoptic"
    assert info.num_examples == {"train": 3, "validation": 2}
    for folder, record in open_all(tmp_path, "ade20k_panoptic"):
        name = f"{folder}/{record.image_id}"
        values = decode(scenes[f"{ROOT}/annotations/{name}.png"])
        objects = decode(instances[f"annotations_instance/{name}.png"])
        numbers = objects[..., 1]
        expected = [
            (v - 1, mask)
            for v in np.unique(values)
            if v > 0
            and not is_thing[v - 1]
            and (mask := (values == v) & (numbers == 0)).any()
        ]
        for n in np.unique(numbers[numbers > 0]):
            (thing,) = np.unique(objects[numbers == n][:, 0])
            expected.append((things[thing - 1], numbers == n))
        assert_masks_equal(record, expected)
        assert record.segment_map[0, :3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", NAMES)
def test_label_map_of_another_size_is_resized_by_nearest_neighbours(
    tmp_path, drawn, name
):
    scenes, instances = drawn
    small = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)  # stuff: 1 to 6
    scenes[f"{ROOT}/annotations/{FIRST}.png"] = encode(small)
    objects = np.zeros((48, 64, 3), np.uint8)
    objects[2, 2] = 1, 1, 0  # row and column 1 of 24 x 32
    objects[3, 3] = 2, 2, 0  # lies between those that are taken
    instances[f"annotations_instance/{FIRST}.png"] = encode(objects)
    build(tmp_path, drawn, name)

    record = next(r for _, r in open_all(tmp_path, name) if r.image_id == FIRST[9:])
    expected = small[np.arange(24) * 2 // 24][:, np.arange(32) * 3 // 32]
    if name == "ade20k_panoptic":
        assert record.labels.tolist() == [0, 1, 2, 3, 4, 5, 7]
        assert np.argwhere(record.segment_map == 7).tolist() == [[1, 1]]
        expected[1, 1] = 7
    np.testing.assert_array_equal(record.segment_map, expected)


@pytest.mark.parametrize("name", NAMES)
def test_constant_label_map_is_left_out_and_named(tmp_path, drawn, name, caplog):
    drawn[0][f"{ROOT}/annotations/{FIRST}.png"] = encode(np.full((24, 32), 9, np.uint8))
    info = build(tmp_path, drawn, name)

    assert info.num_examples == {"train": 2, "validation": 2}
    assert f"1 images with one value all over, left out ({FIRST[9:]})" in caplog.text


def test_panoptic_image_without_segments_is_left_out_and_named(tmp_path, drawn, caplog):
    values = np.zeros((24, 32), np.uint8)
    values[4] = 8  # a bed, which only an instance map would make a thing
    drawn[0][f"{ROOT}/annotations/{FIRST}.png"] = encode(values)
    drawn[1][f"annotations_instance/{FIRST}.png"] = encode(
        np.zeros((24, 32, 3), np.uint8)
    )
    info = build(tmp_path, drawn, "ade20k_panoptic")

    assert info.num_examples == {"train": 2, "validation": 2}
    assert f"without a labelled pixel, left out ({FIRST[9:]})" in caplog.text


def test_missing_archives_are_named_with_where_to_get_them(tmp_path):
    (tmp_path / "archives").mkdir()
    with pytest.raises(ValueError, match="missing from") as error:
        prepare.prepare(
            NAMES[0], tmp_path / "prepared", archives=str(tmp_path / "archives")
        )
    assert "http://data.csail.mit.edu/places/ADEchallenge/" in str(error.value)
    assert (
        "annotations_instance.tar or annotations_instance.zip: get it from http://"
        "sceneparsing.csail.mit.edu/data/"
    ) in str(error.value)


def test_semantic_needs_no_instances(tmp_path, drawn):
    map_archives.write_ade20k(tmp_path / "archives", *drawn)
    (tmp_path / "archives" / INSTANCES_TAR).unlink()
    info = prepare.prepare(
        NAMES[1], tmp_path / "prepared", archives=str(tmp_path / "archives")
    )
    assert info.num_examples == {"train": 3, "validation": 2}


@pytest.mark.parametrize("archive", [SCENES, INSTANCES_TAR])
def test_truncated_archive_is_named(tmp_path, drawn, archive):
    map_archives.write_ade20k(tmp_path / "archives", *drawn)
    whole = (tmp_path / "archives" / archive).read_bytes()
    (tmp_path / "archives" / archive).write_bytes(
        whole[: len(whole.rstrip(b"\0")) * 2 // 3]
    )
    with pytest.raises(
        ValueError, match=f"^{archive} is truncated.* get it .*from http"
    ):
        prepare.prepare(
            NAMES[0], tmp_path / "prepared", archives=str(tmp_path / "archives")
        )
    assert_nothing_left(tmp_path, NAMES[0])


def test_another_archive_under_the_name_is_refused(tmp_path, drawn):
    scenes, instances = drawn
    wrong = {f"images/{name}": content for name, content in instances.items()}
    with pytest.raises(ValueError, match=f"{INSTANCES_TAR} is another archive under"):
        build(tmp_path, (scenes, wrong), NAMES[0])


@pytest.mark.parametrize(
    ("which", "lost", "message"),
    [
        (0, f"{ROOT}/images/{FIRST}.jpg", f"1 files in {ROOT}/annotations/training/"),
        (0, f"{ROOT}/annotations/{FIRST}.png", f"1 files in {ROOT}/images/training/"),
        (1, f"annotations_instance/{FIRST}.png", f"1 files in {SCENES} have none in "),
    ],
)
def test_file_without_partner_is_named(tmp_path, drawn, which, lost, message):
    del drawn[which][lost]
    with pytest.raises(ValueError, match=f"{message}.*: .*ADE_tra_00000000"):
        build(tmp_path, drawn, NAMES[0])
    assert_nothing_left(tmp_path, NAMES[0])


def test_damaged_files_are_told_together_and_nothing_is_left(tmp_path):
    scenes, instances = map_archives.draw_ade20k({"training": 4, "validation": 2})
    other, third = FIRST[:-1] + "1", FIRST[:-1] + "2"
    scenes[f"{ROOT}/images/{FIRST}.jpg"] = scenes[f"{ROOT}/images/{FIRST}.jpg"][:-300]
    scenes[f"{ROOT}/annotations/{other}.png"] = encode(
        np.array([[1, 151], [200, 0]], np.uint8)
    )
    objects = np.zeros((24, 32, 3), np.uint8)
    objects[0, 0] = 101, 1, 0
    instances[f"annotations_instance/{third}.png"] = encode(objects)
    grey = "validation/ADE_val_00000000"
    instances[f"annotations_instance/{grey}.png"] = encode(objects[..., 0])
    colour = "validation/ADE_val_00000001"
    scenes[f"{ROOT}/annotations/{colour}.png"] = encode(objects)
    with pytest.raises(ValueError, match=r"can't be decoded") as error:
        build(tmp_path, (scenes, instances), NAMES[0])
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    assert f"{FIRST}.jpg can't be decoded (image file is truncated" in lines[0]
    assert f"{other}.png has the value 151, 200, which stands for no class" in lines[1]
    assert "known: 0 to 150" in lines[1]
    assert f"{third}.png has an object of instance class 101; there are 1" in lines[2]
    assert f"{grey}.png has the channels L, not RGB" in lines[3]
    assert f"{colour}.png has colours (#000000, #650100), but a label" in lines[4]
    assert_nothing_left(tmp_path, NAMES[0])
