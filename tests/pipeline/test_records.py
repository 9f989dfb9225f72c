"""Prepared records are stored and read at random."""

import pickle
from typing import Any

import numpy as np
import pytest
from absl import logging

from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.pipeline import records
from eomt_jax.types import ClassInfo

CLASSES = (
    ClassInfo(7, "cat", True, (1, 2, 3)),
    ClassInfo(9, "sky", False, (4, 5, 6)),
)


def make_record(number: int) -> records.Record:
    segment_map = np.zeros((4, 5 + number), np.uint16)
    segment_map[1:3, :2] = 1
    segment_map[3] = 2
    return records.Record(
        image_bytes=b"not decoded %d" % number,
        segment_map=segment_map,
        labels=np.array([1, 0], np.int32),
        is_crowd=np.array([False, True]),
        image_id=f"picture {number}",
        file_name=f"photos/{number}.jpg\udcff",  # a name that is no UTF-8
        height=4,
        width=5 + number,
    )


class Tiny(RecordBuilder, skip_registration=True):
    classes = CLASSES

    def plan(self):
        return {"train": range(3), "validation": range(3, 5)}

    def make_record(self, item: Any) -> records.Record:
        return make_record(item)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    logging.set_verbosity(logging.WARNING)
    Tiny(data_dir=str(root)).download_and_prepare(file_format="array_record")
    return root


def test_open_split_gives_back_what_was_written(data_dir):
    source = records.open_split(data_dir, "tiny", "train")

    assert len(source) == 3
    for index in range(3):
        expected, actual = make_record(index), source[index]
        assert actual.image_bytes == expected.image_bytes
        assert actual.segment_map.dtype == np.uint16
        np.testing.assert_array_equal(actual.segment_map, expected.segment_map)
        assert actual.labels.dtype == np.int32
        np.testing.assert_array_equal(actual.labels, expected.labels)
        assert actual.is_crowd.dtype == np.bool_
        np.testing.assert_array_equal(actual.is_crowd, expected.is_crowd)
        assert (actual.height, actual.width) == (4, 5 + index)
        assert actual.file_name == f"photos/{index}.jpg?"
        assert source.image_id(index) == actual.image_id == f"picture {index}"


def test_from_example_of_a_dataset_without_file_names():
    """The dataset was prepared before file names were kept."""
    record = make_record(0)
    example = {
        "image": record.image_bytes,
        "segment_map": records.encode_segment_map(record.segment_map),
        "labels": record.labels,
        "is_crowd": record.is_crowd,
        "image_id": b"picture 0",
        "height": 4,
        "width": 5,
    }
    assert records.from_example(example).file_name == ""


def test_read_info_says_classes_and_sizes(data_dir):
    info = records.read_info(data_dir, "tiny")

    assert info.name == "tiny"
    assert info.classes == CLASSES
    assert info.max_image_size == (4, 9)
    assert info.max_segments == 2
    assert info.num_examples == {"train": 3, "validation": 2}
    assert records.open_split(data_dir, "tiny", "validation").info == info


def test_record_source_pickles_as_its_address(data_dir):
    source = records.open_split(data_dir, "tiny", "validation")
    pickled = pickle.dumps(source)

    assert len(pickled) < 1000
    copy = pickle.loads(pickled)
    assert copy.image_id(1) == source.image_id(1) == "picture 4"


@pytest.mark.parametrize("index", [-1, 3])
def test_record_source_outside_raises_index_error(data_dir, index):
    with pytest.raises(IndexError, match=f"record {index} of 3"):
        records.open_split(data_dir, "tiny", "train")[index]


def test_open_split_not_prepared_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"python data/prepare\.py coco_panoptic"):
        records.open_split(tmp_path, "coco_panoptic", "train")


def test_open_split_unknown_split_lists_the_known(data_dir):
    with pytest.raises(ValueError, match="'test'; it has train, validation"):
        records.open_split(data_dir, "tiny", "test")


def test_prepared_versions_newest_last_without_unfinished(tmp_path):
    for version in ("1.0.0", "1.10.0", "1.9.0", "2.0.0"):
        folder = tmp_path / "some" / version
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text("{}")
        if version != "2.0.0":
            (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "some" / "incomplete.ABC_3.0.0").mkdir()

    names = [path.name for path in records.prepared_versions(tmp_path, "some")]
    assert names == ["1.0.0", "1.9.0", "1.10.0"]


def test_read_info_foreign_dataset_is_refused(tmp_path):
    folder = tmp_path / "foreign" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="without a class table"):
        records.read_info(tmp_path, "foreign")


@pytest.mark.parametrize("largest, bits", [(255, 8), (256, 16), (65_535, 16)])
def test_segment_map_survives_encoding(largest, bits):
    segment_map = np.array([[0, 1, largest]], np.uint16)
    encoded = records.encode_segment_map(segment_map)

    assert encoded[24] == bits  # the bit depth in the PNG's header
    decoded = records.decode_segment_map(encoded)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, segment_map)


def test_encode_segment_map_too_many_segments_is_refused():
    with pytest.raises(ValueError, match="65536 segments"):
        records.encode_segment_map(np.array([[65_536]]))
