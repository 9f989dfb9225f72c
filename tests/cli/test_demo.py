import dataclasses
import json
import pathlib
import struct
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from eomt_jax.cli import demo
from eomt_jax.cli.demo_page import Page, allowed_tasks, is_used, slider_value
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import INFO, BrightestChannel, channel_params


class HalfNetwork(CompiledNetwork):
    """Finds class 0 on the left and 3 on the right, and compiles nothing."""

    error: Exception | None = None

    def logits(self, images, *, factored):
        return [(None, np.zeros((2, 5)))] * len(images)

    def post_process(
        self, logits, content_size, size, task, threshold, *, nms_iou, **_
    ):
        self.seen_iou = nms_iou
        if self.error is not None:
            raise self.error
        id_map = np.ones(size, int)
        id_map[:, size[1] // 2 :] = 2
        scores = None if task == "semantic" else np.array([0.9, 0.6])
        found = Segmentation(labels=np.array([0, 3]), id_map=id_map, scores=scores)
        if threshold <= 0.6:
            return found
        id_map[id_map == 2] = 0
        return Segmentation(np.array([0]), id_map=id_map, scores=np.array([0.9]))


@pytest.fixture
def page(tmp_path):
    (tmp_path / "answers").mkdir()
    model, params = BrightestChannel(), channel_params()
    segmenter = Segmenter(model, params, INFO)
    segmenter.network = HalfNetwork(model, params, INFO, batch_size=1)
    return Page(segmenter, str(tmp_path / "answers"))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "a & b.jpg"
    Image.new("RGB", (40, 20), (90, 120, 200)).save(path)
    return str(path)


def test_answer_has_segments_by_name_and_files_of_eomt_predict(page, photo):
    answer = page.answer(photo, "panoptic", 0.5)
    assert answer.sentence.startswith("a & b.jpg, 40 × 20 pixels: 2 segments.")
    assert "<li>class 0, 90 %, on 50 % of the photograph</li>" in answer.picture
    assert ">class 3, 60 %</text>" in answer.picture
    overlay, coco = map(pathlib.Path, answer.files)
    assert (overlay.name, coco.name) == ("a & b.png", "a & b.json")
    with Image.open(overlay) as picture:
        assert picture.size == (1024, 512)
    found = json.loads(coco.read_text())
    assert found["images"][0]["file_name"] == "a & b.jpg"
    assert [row["score"] for row in found["annotations"]] == [0.9, 0.6]


def test_answer_at_another_threshold_says_that_the_network_did_not_run(page, photo):
    assert "took" in page.answer(photo, "panoptic", 0.5).sentence
    answer = page.answer(photo, "panoptic", 0.7)
    assert answer.sentence == (
        "a & b.jpg, 40 × 20 pixels: 1 segment. The network did not run again."
    )
    assert "class 3" not in answer.picture


def test_largest_iou_is_the_segmenters_or_that_of_the_slider(photo, tmp_path):
    model, params = BrightestChannel(), channel_params()
    segmenter = Segmenter(model, params, INFO)
    segmenter.network = network = HalfNetwork(
        model, params, INFO, batch_size=1, nms_iou=0.7
    )
    page = Page(segmenter, str(tmp_path))
    page.answer(photo, "instance", 0.5)
    assert network.seen_iou == 0.7
    page.answer(photo, "instance", 0.5, 0.3)
    assert network.seen_iou == 0.3


def test_sliders_are_those_that_change_something():
    sliders = ("threshold", "nms_iou")
    used = {
        task: [name for name in sliders if is_used(name, task)]
        for task in ("panoptic", "instance", "semantic")
    }
    assert used == {"panoptic": ["threshold"], "instance": [*sliders], "semantic": []}


@pytest.mark.parametrize(
    "value, expected",
    [(0.3, 0.3), (1, 1.0), (0.05, 0.05), (0, 0.8), (7, 0.8), (None, 0.8), ("x", 0.8)],
)
def test_slider_whose_field_holds_no_such_number_has_its_default(value, expected):
    assert slider_value(value, 0.8) == expected


def test_semantic_segments_have_no_scores(page, photo):
    answer = page.answer(photo, "semantic", 0.0)
    assert "<li>class 0, on 50 % of the photograph</li>" in answer.picture


def png_header(width, height):
    """Returns the beginning of a PNG, which says its size and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [header, b"IDAT"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in chunks
    )


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "bad.png is empty."),
        (b"hello", "bad.png is no picture that can be read (unknown format)."),
        (
            png_header(20_000, 20_000),
            "bad.png has more than 178,956,970 pixels, at which Pillow suspects an",
        ),
        (
            png_header(10_000, 6_401),
            "bad.png has 10000 × 6401 pixels, and at most 64,000,000 are taken here",
        ),
    ],
)
def test_bad_upload_is_answered_and_the_next_one_too(
    content, sentence, page, photo, tmp_path
):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    answer = page.answer(str(path), "panoptic", 0.5)
    assert answer.sentence.startswith(sentence)
    assert str(tmp_path) not in answer.sentence
    assert (answer.picture, answer.files) == ("", ())
    assert page.answer(photo, "panoptic", 0.5).files


def test_photograph_that_was_deleted_is_asked_for_again(page, tmp_path):
    answer = page.answer(str(tmp_path / "old.jpg"), "panoptic", 0.5)
    assert answer.sentence.startswith("old.jpg was deleted")


def test_strip_of_one_pixel_is_segmented_and_refused_in_windows(page, tmp_path):
    path = tmp_path / "strip.png"
    Image.new("RGB", (5000, 1)).save(path)
    assert "5000 × 1 pixels" in page.answer(str(path), "panoptic", 0.5).sentence
    sentence = page.answer(str(path), "semantic", 0.0).sentence
    assert sentence.startswith("a photograph of 1 × 5000 pixels takes")
    assert sentence.endswith("cut it into parts.")


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(), "more segments than the memory holds"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB\nat"), "EXHAUSTED: 9 GB"),
    ],
)
def test_memory_that_ends_is_answered(error, words, page, photo, monkeypatch):
    monkeypatch.setattr(HalfNetwork, "error", error)
    assert words in page.answer(photo, "panoptic", 0.5).sentence


def test_only_the_last_answers_keep_their_files(page, photo):
    answers = [page.answer(photo, "panoptic", 0.5) for _ in range(6)]
    exist = [pathlib.Path(answer.files[0]).exists() for answer in answers]
    assert exist == [False, False, True, True, True, True]


def test_tasks_are_those_that_the_classes_allow():
    stuff = tuple(dataclasses.replace(row, is_thing=False) for row in INFO.classes)
    info = dataclasses.replace(INFO, classes=stuff)
    segmenter = Segmenter(BrightestChannel(), channel_params(), info, task="semantic")
    allowed = allowed_tasks(segmenter)
    assert allowed[0] == "semantic"
    assert "panoptic" in allowed
    assert "instance" not in allowed


def test_demo_without_gradio_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    assert demo.main(["--checkpoint=nowhere"]) == 1
    assert capsys.readouterr().err == (
        "eomt-demo: the page needs gradio: pip install 'eomt_jax[demo]'\n"
    )


def test_demo_listens_on_this_machine_alone_by_default():
    options = demo.parse_arguments(["--checkpoint=x"])
    assert (options.host, options.port, options.share) == ("127.0.0.1", None, False)
