"""Two processes over 127.0.0.1 have the scores of one process, and use images once."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_codec

from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.pipeline.records import Record
from eomt_jax.types import ClassInfo
from tests.processes import run_processes

SIZE = (16, 24)
NUM_IMAGES = 5  # a full batch of four, and a last one whose only row is process 0's


class Bars(RecordBuilder):
    """A dataset of bars from the left border that get shorter, on a background."""

    classes = (
        ClassInfo(1, "bar", True, (200, 0, 0)),
        ClassInfo(2, "background", False, (0, 0, 200)),
    )
    image_format = "png"

    def plan(self):
        return {"train": range(NUM_IMAGES)}

    def make_record(self, item):
        segment_map = np.full(SIZE, 2, np.uint16)
        segment_map[:, : SIZE[1] - 3 * item] = 1
        encoded = io.BytesIO()
        pixels = np.random.default_rng(item).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(encoded, format="PNG")
        return Record(
            image_bytes=encoded.getvalue(),
            segment_map=segment_map,
            labels=np.array([0, 1], np.int32),
            is_crowd=np.zeros(2, bool),
            image_id=str(item),
            height=SIZE[0],
            width=SIZE[1],
        )


class BarsInstance(Bars):
    """The bars without the background, for instances."""

    task = "instance"
    classes = Bars.classes[:1]

    def make_record(self, item):
        record = super().make_record(item)
        mask = np.asfortranarray(record.segment_map == 1, np.uint8)
        return dataclasses.replace(
            record,
            segment_map=None,
            rles=(mask_codec.encode(mask)["counts"],),
            areas=np.array([float(mask.sum())]),
            labels=record.labels[:1],
            is_crowd=record.is_crowd[:1],
        )


def score(data_dir, out, *, num_processes, tensor=1):
    """Runs the processes; returns the scores and submissions that they write."""
    run_processes(
        "tests.meshes.scoring_process",
        (data_dir, out, tensor),
        count=num_processes,
        devices=4 // num_processes,
        folder=out.parent,
    )
    files = {
        str(file.relative_to(out.parent)).replace(out.name, ""): file.read_bytes()
        for folder in out.parent.glob(f"{out.name}_*")
        for file in folder.rglob("*.*")
    }
    return json.loads(out.with_name(f"{out.name}.json").read_text()), files


def assert_same_files(files, expected_files, *, score_digits=17):
    """Ignores the order of rows in JSON files, and digits past `score_digits`."""
    assert files.keys() == expected_files.keys()
    for name, content in files.items():
        expected = expected_files[name]
        if name.endswith(".json"):
            content, expected = (
                sorted_rows(json.loads(text), score_digits)
                for text in (content, expected)
            )
        assert content == expected


def sorted_rows(submission, score_digits):
    rows = submission if isinstance(submission, list) else submission["annotations"]
    scores = (round(row.get("score", 1.0), score_digits) for row in rows)
    return sorted(
        json.dumps({**row, "score": score}) for row, score in zip(rows, scores)
    )


@pytest.mark.timeout(280)
def test_two_processes_score_and_write_what_one_does(tmp_path):
    for builder in (Bars, BarsInstance):
        builder(data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
    alone, files_alone = score(tmp_path, tmp_path / "one", num_processes=1)
    together, files = score(tmp_path, tmp_path / "two", num_processes=2)

    assert together == alone
    # Each image lies on devices of both processes, and still counts once. The halves of
    # a layer on two devices are added up in another order.
    shared, files_shared = score(
        tmp_path, tmp_path / "shared", num_processes=2, tensor=2
    )
    assert shared == alone
    assert_same_files(files_shared, files_alone, score_digits=5)
    # The bars have 24, 21, 18, 15 and 12 of 24 columns, and all pixels are predicted
    # bar.
    constant = together["class"]
    assert constant["instance"]["num_images"] == NUM_IMAGES
    assert 0 < constant["instance"]["all"]["ap"] < constant["instance"]["all"]["ap50"]
    assert constant["panoptic"]["things"]["sq"] == pytest.approx(
        100 * np.mean([24, 21, 18, 15]) / 24
    )
    assert constant["semantic"]["all"]["pixel_accuracy"] == pytest.approx(75.0)
    # A network's scores have more digits that could differ.
    for task, name in (("instance", "ap"), ("panoptic", "pq"), ("semantic", "miou")):
        assert together["network"][task]["num_images"] == NUM_IMAGES
        assert 0.1 < together["network"][task]["all"][name] < 99.9
    assert len(files) == 2 * NUM_IMAGES + 2
    assert_same_files(files, files_alone)
