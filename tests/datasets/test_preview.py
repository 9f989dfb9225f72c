"""preview.py counts and warns as by hand, and draws the samples on a sheet."""

import dataclasses
import io
import pathlib
import runpy

import numpy as np
import pytest
from absl import flags
from PIL import Image
from pycocotools import mask as mask_codec

from eomt_jax.datasets import preview, shapes
from eomt_jax.pipeline import records
from eomt_jax.types import ClassInfo, DatasetInfo

SCRIPT = pathlib.Path(__file__).parents[2] / "data" / "preview.py"
INFO = DatasetInfo(
    name="hand",
    classes=(
        ClassInfo(1, "cat", True, (200, 30, 30)),
        ClassInfo(2, "dog", True, (30, 200, 30)),
        ClassInfo(3, "sky", False, (30, 30, 200)),
    ),
    max_image_size=(40, 80),
    max_segments=3,
    num_examples={"train": 2},
)


def make_record(segment_map, labels, is_crowd, image_id="one"):
    height, width = segment_map.shape
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), (120, 130, 140)).save(encoded, format="PNG")
    return records.Record(
        image_bytes=encoded.getvalue(),
        segment_map=segment_map.astype(np.uint16),
        labels=np.array(labels, np.int32),
        is_crowd=np.array(is_crowd, np.bool_),
        image_id=image_id,
        height=height,
        width=width,
    )


@pytest.fixture
def two_records():
    first = np.zeros((40, 80))
    first[:20] = 1  # sky, 1600 pixels
    first[20:30, :10] = 2  # cat, 100 pixels
    first[20:30, 20:40] = 3  # cat, 200 pixels
    second = np.zeros((40, 80))
    second[:, :40] = 1  # a crowd of cats, 1600 pixels
    second[:30, 40:70] = 2  # cat, 900 pixels
    return [
        make_record(first, [2, 0, 0], [False] * 3),
        make_record(second, [0, 0], [True, False], "two"),
    ]


def test_count_by_hand(two_records):
    counts = preview.count(two_records, INFO, image_size=80)

    assert counts.num_images == 2
    assert counts.max_segments == 3
    assert counts.crowds == 1
    assert counts.images.tolist() == [2, 0, 1]
    assert counts.segments.tolist() == [3, 0, 1]
    assert counts.small.tolist() == [2, 0, 0]  # below 16 x 16 = 256 pixels
    np.testing.assert_allclose(counts.side, [200**0.5, 0, 40])
    np.testing.assert_allclose(counts.pixels, [1200 / 6400, 0, 1600 / 6400])
    assert counts.crowd_pixels == pytest.approx(1600 / 6400)
    assert counts.uncovered == pytest.approx(2000 / 6400)


def test_count_measures_at_the_configured_size(two_records):
    doubled = preview.count(two_records, INFO, image_size=160)

    assert doubled.small.tolist() == [0, 0, 0]
    np.testing.assert_allclose(doubled.side, [2 * 200**0.5, 0, 80])


def test_count_of_overlapping_masks(two_records):
    masks = np.zeros((40, 80, 3), np.uint8, order="F")
    masks[:20, :40, 0] = 1  # a cat, 800 pixels
    masks[10:30, 20:60, 1] = 1  # a dog, 800 pixels, 200 of them the cat's
    masks[30:, :, 2] = 1  # a crowd
    instances = dataclasses.replace(
        two_records[0],
        segment_map=None,
        rles=tuple(rle["counts"] for rle in mask_codec.encode(masks)),
        areas=np.zeros(3),
        labels=np.array([0, 1, 0], np.int32),
        is_crowd=np.array([False, False, True]),
    )
    empty = dataclasses.replace(
        instances,
        rles=(),
        areas=np.zeros(0),
        labels=np.zeros(0, np.int32),
        is_crowd=np.zeros(0, bool),
    )
    counts = preview.count([instances, empty], INFO, image_size=80)

    assert counts.segments.tolist() == [1, 1, 0]
    assert counts.crowds == 1
    np.testing.assert_allclose(counts.pixels, [800 / 6400, 800 / 6400, 0])
    assert counts.crowd_pixels == pytest.approx(800 / 6400)
    assert counts.uncovered == pytest.approx(1 - 2200 / 6400)
    sheet = preview.draw_sheet([instances, empty], INFO, panel=100)
    assert sheet.size == (12 + 2 * (2 * 100 + 6 + 12), 12 + 50 + 18 + 12)


def test_format_counts_of_semantic_classes_says_nothing_of_stuff(two_records):
    info = dataclasses.replace(INFO, task="semantic")
    counts = preview.count(two_records, info, image_size=80)
    assert "stuff" not in preview.format_counts(counts, info)


def test_find_problems_names_absent_rare_and_small(two_records):
    counts = preview.count(two_records, INFO, image_size=80)
    absent, rare, small, share = preview.find_problems(counts, INFO, image_size=80)

    assert absent == "classes without a segment: dog"
    assert rare.endswith("fewer than 20 segments: cat, sky")
    assert small.endswith("(16 x 16) at image_size=80: cat")
    assert share.startswith("67% of all objects are smaller than a patch")


def test_find_problems_of_shapes_is_none():
    info = DatasetInfo("shapes", shapes.CLASSES, (96, 96), 7, {"train": 60})
    drawn = [shapes.draw_record("train", i) for i in range(60)]
    counts = preview.count(drawn, info, image_size=96)
    assert preview.find_problems(counts, info, image_size=96) == []


def test_format_counts_lists_what_there_is(two_records):
    counts = preview.count(two_records, INFO, image_size=80)
    lines = preview.format_counts(counts, INFO).splitlines()

    assert lines[1].split() == ["cat", "2", "3", "18.8%", "14", "px"]
    assert lines[2].split() == ["sky", "(stuff)", "1", "1", "25.0%", "40", "px"]
    assert lines[3:] == [
        "2 images, 4 segments, at most 3 in one image",
        "crowds: 1, with 25.0% of the pixels",
        "31.2% of the pixels are void",
    ]


def test_format_counts_of_instances_calls_what_is_left_background(two_records):
    info = dataclasses.replace(INFO, task="instance")
    counts = preview.count(two_records[:1], info, image_size=80)
    lines = preview.format_counts(counts, info).splitlines()
    assert lines[-1] == "40.6% of the pixels are background, without an object"
    assert not any(line.startswith("background") for line in lines)


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_find_problems_background_among_the_classes(two_records, task):
    """It is no class of instances, but one like any other of semantic masks."""
    classes = (ClassInfo(0, "__background__", True, (0, 0, 0)), *INFO.classes[1:])
    info = dataclasses.replace(INFO, task=task, classes=classes)
    sky = dataclasses.replace(two_records[0], labels=np.array([2, 1, 1], np.int32))
    counts = preview.count([sky], info, image_size=80)
    first = preview.find_problems(counts, info, image_size=80)[0]
    if task == "instance":
        assert first.startswith("the class list has the background")
    else:
        assert first == "classes without a segment: __background__"


def test_draw_sheet_shows_photographs_beside_their_segments(two_records):
    sheet = np.asarray(preview.draw_sheet(two_records, INFO, panel=400))

    # Two samples are side by side, each two panels wide and half as high as wide.
    assert sheet.shape[1] == 12 + 2 * (2 * 400 + 6 + 12)
    assert sheet.shape[0] == 12 + 200 + 18 + 12
    np.testing.assert_array_equal(sheet[12 + 100, 12 + 200], (120, 130, 140))
    sky = sheet[12 + 30, 12 + 400 + 6 + 30]  # blue over grey
    assert sky[2] > sky[0] + 30


def test_caption_says_file_name_and_id(two_records):
    first, second = two_records
    first = dataclasses.replace(first, image_id="a_one", file_name="a/one.jpg")
    assert preview._caption(first, max_width=800)[0] == (
        "a/one.jpg   80 x 40 px   3 segments"
    )
    second = dataclasses.replace(second, image_id="17", file_name="Löwe.jpg")
    assert preview._caption(second, max_width=800)[0].endswith(
        "we.jpg   id 17   80 x 40 px   2 segments, 1 of them crowds"
    )
    long = dataclasses.replace(first, file_name="x" * 300 + "/" + "one.jpg")
    caption, font = preview._caption(long, max_width=300)
    assert caption.startswith("…") and "/one.jpg   id a_one   80" in caption
    assert 285 < font.getlength(caption) <= 300


def test_main_writes_sheet_and_prints_counts(tmp_path, monkeypatch, capsys):
    source = [shapes.draw_record("train", i) for i in range(5)]

    class Source(list):
        info = DatasetInfo("shapes", shapes.CLASSES, (96, 96), 7, {"train": 5})

    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(records, "open_split", lambda *_: Source(source))
    for name, value in {
        "data_dir": "somewhere",
        "split": "train",
        "out": str(tmp_path / "new" / "sheet.png"),
    }.items():
        flags.DEFINE_string(name, value, "", flag_values=values)
    for name, value in {
        "image_size": 0,
        "patch_size": 16,
        "num_samples": 3,
        "max_images": 4,
    }.items():
        flags.DEFINE_integer(name, value, "", flag_values=values)
    values.mark_as_parsed()
    runpy.run_path(str(SCRIPT))["main"](["preview.py", "shapes"])

    printed = capsys.readouterr().out
    assert "4 images" in printed
    assert "too rare to learn" in printed
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width > 600
