"""Every builder writes records, lists problems, and counts what is left out."""

import dataclasses
import functools

import numpy as np
import pytest

from eomt_jax.datasets import builder
from eomt_jax.pipeline import records
from eomt_jax.pipeline.records import Record
from eomt_jax.types import ClassInfo
from tests.datasets import map_archives

GOOD, LEFT_OUT, BAD = "good", "left_out", "bad"
CLASSES = (ClassInfo(1, "a", False, (1, 1, 1)), ClassInfo(2, "b", False, (2, 2, 2)))


class Listed(builder.RecordBuilder):
    """A dataset of listed items: words by split, or (height, width)."""

    VERSION = builder.RecordBuilder.VERSION
    classes = CLASSES
    task = "semantic"

    def __init__(self, *, splits, **kwargs):
        super().__init__(**kwargs)
        self.splits = splits

    def plan(self):
        return {
            split: [(f"{split}_{i}", what) for i, what in enumerate(items)]
            for split, items in self.splits.items()
        }

    def make_record(self, item):
        name, what = item
        if what == BAD:
            raise ValueError(f"{name} is bad")
        if what == LEFT_OUT:
            self.note("images that nobody wants", name)
            return None
        size = (8, 8) if what == GOOD else what
        return Record(
            image_bytes=map_archives.photograph(np.random.default_rng(0), size),
            segment_map=np.ones(size, np.uint16),
            labels=np.array([1], np.int32),
            is_crowd=np.zeros(1, bool),
            image_id=name,
            height=size[0],
            width=size[1],
        )


def build(tmp_path, **splits):
    listed = Listed(name="mine", data_dir=str(tmp_path), splits=splits)
    listed.download_and_prepare(file_format="array_record")
    return listed


def test_records_are_written_in_order_and_summarised(tmp_path):
    build(tmp_path, train=[GOOD, LEFT_OUT, (4, 64), GOOD], validation=[(32, 2)])

    info = records.read_info(tmp_path, "mine")
    assert info.num_examples == {"train": 3, "validation": 1}
    assert info.max_image_size == (32, 64)
    assert info.max_segments == 1
    assert info.max_aspect_ratio == 16
    source = records.open_split(tmp_path, "mine", "train")
    ids = [source.image_id(i) for i in range(len(source))]
    assert ids == ["train_0", "train_2", "train_3"]


def test_classes_without_a_segment_are_noted(tmp_path):
    notes = build(tmp_path, train=[GOOD], validation=[GOOD]).notes
    assert notes == {"classes that no image shows": ["a"]}


def test_problems_of_all_splits_are_told_together(tmp_path):
    with pytest.raises(ValueError, match="bad") as error:
        build(tmp_path, train=[BAD, GOOD, BAD], validation=[GOOD, BAD])
    assert str(error.value).splitlines() == [
        "train_0 is bad",
        "train_2 is bad",
        "validation_1 is bad",
    ]
    assert records.prepared_versions(tmp_path, "mine") == []


def test_many_problems_end_the_build_at_once(tmp_path):
    with pytest.raises(ValueError, match="bad") as error:
        build(tmp_path, train=[GOOD] + [BAD] * 30, validation=[GOOD])
    lines = str(error.value).splitlines()
    assert lines == [*(f"train_{i} is bad" for i in range(1, 11)), "and maybe more"]


def test_problems_of_a_split_without_a_good_image_are_told(tmp_path):
    with pytest.raises(ValueError, match="^train_0 is bad\ntrain_1 is bad$"):
        build(tmp_path, train=[BAD, BAD], validation=[GOOD])


def test_split_whose_images_are_all_left_out_says_why(tmp_path):
    with pytest.raises(
        ValueError,
        match="^mine: no image is left for validation\n2 images that nobody wants$",
    ):
        build(tmp_path, train=[GOOD], validation=[LEFT_OUT, LEFT_OUT])


def test_split_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mine: there is no image for validation"):
        build(tmp_path, train=[GOOD], validation=[])


@pytest.mark.parametrize("empty", [0, 1])
def test_shard_whose_images_are_all_left_out_is_no_problem(
    tmp_path, monkeypatch, empty
):
    monkeypatch.setattr(builder, "EXAMPLES_PER_SHARD", 2)
    shards = [[GOOD, GOOD], [LEFT_OUT, LEFT_OUT], [GOOD]]
    order = [shards[1], shards[0]] if empty == 0 else shards[:2]
    build(tmp_path, train=[*order[0], *order[1], *shards[2]], validation=[GOOD])
    assert len(records.open_split(tmp_path, "mine", "train")) == 3


@pytest.mark.parametrize("size", [(1, 33), (5000, 1)])
def test_long_and_thin_photograph_is_named(tmp_path, size):
    with pytest.raises(ValueError, match=r"train_1 has \d+ x \d+ pixels: one side is"):
        build(tmp_path, train=[(2, 64), size], validation=[GOOD])


def test_problems_are_told_without_a_progress_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(
        builder, "tqdm", functools.partial(builder.tqdm, disable=True)
    )  # as TQDM_DISABLE=1 does
    with pytest.raises(ValueError, match="^train_1 is bad$"):
        build(tmp_path, train=[GOOD, BAD], validation=[GOOD])
    assert records.prepared_versions(tmp_path, "mine") == []


def test_one_id_twice_in_a_split_is_refused(tmp_path, monkeypatch):
    twice = {"train": [("a", GOOD), ("a", GOOD)], "validation": [("a", GOOD)]}
    monkeypatch.setattr(Listed, "plan", lambda self: twice)
    with pytest.raises(ValueError, match="^two images of a split have the id a, "):
        build(tmp_path)
    assert records.prepared_versions(tmp_path, "mine") == []


SQUARE = {"labels": np.array([0], np.int32), "segment_map": None}
MASK = b"P2"  # 64 - 0 pixels, of 8 x 8


def masks(rle, area=1.0):
    return {**SQUARE, "rles": (rle,), "areas": np.array([area])}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": np.array([2], np.int32)}, "label 2 of 2 classes"),
        ({"labels": np.array([-1], np.int32)}, "label -1 of 2 classes"),
        ({"is_crowd": np.zeros(2, bool)}, "1 labels, 2 of is_crowd"),
        ({"height": 9}, "its id map has 8 x 8 pixels, not 9 x 8"),
        ({"segment_map": np.ones((8, 9), int)}, "its id map has 8 x 9 pixels, not 8 x"),
        ({"segment_map": np.full((8, 8), 2)}, "its id map has a segment 2 of 1"),
        ({**SQUARE, "rles": (MASK, MASK), "areas": np.ones(2)}, "1 labels, 2 masks, 2"),
        (
            {**SQUARE, "rles": (MASK,), "areas": np.ones(2)},
            "1 labels, 1 masks, 2 areas",
        ),
        (masks(b"P21"), "the run lengths of mask 0 aren't those of 8 x 8"),
        (masks(b"o1"), "the run lengths of mask 0"),
        (masks(b"P2\0"), "the run lengths of mask 0"),
        (masks(b"P"), "the run lengths of mask 0"),
        (masks(MASK, area=np.nan), "an area is nan"),
        (masks(MASK, area=-1.0), "an area is -1.0"),
    ],
)
def test_inconsistent_record_is_named(tmp_path, monkeypatch, change, match):
    make = Listed.make_record

    def make_one_wrong(self, item):
        record = make(self, item)
        wrong = dataclasses.replace(record, **change)
        return wrong if record.image_id == "train_1" else record

    monkeypatch.setattr(Listed, "make_record", make_one_wrong)
    match = f"^the record of train_1 is inconsistent: {match}"
    with pytest.raises(ValueError, match=match):
        build(tmp_path, train=[GOOD, GOOD], validation=[GOOD])
    assert records.prepared_versions(tmp_path, "mine") == []
