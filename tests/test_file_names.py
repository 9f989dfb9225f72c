"""Names in data never lead to a file outside of the folder that was named."""

import dataclasses
import random

import numpy as np
import pytest

from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.evaluation import pictures, scoring
from eomt_jax.evaluation.submission import Submission
from eomt_jax.file_names import check_name, check_utf8, path_below
from eomt_jax.pictures.comparison import Picture
from eomt_jax.pipeline.records import Record
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import ClassInfo
from tests.evaluation.test_submission import (
    Source,
    make_batch,
    panoptic_prediction,
)

HOSTILE = (
    *("", ".", "..", "../x", "a/../../x", "/tmp/x", "//x", "a//b", "a/", "a/./b"),
    *("gs://bucket/x", "file:///tmp/x", "a\0b", "a\nb", "\x7f", "\udcff"),
    *("x" * 236, "\u00e9" * 118, "a/" + "x" * 236),
)
HARMLESS = (
    *("000000000139", "frankfurt/frankfurt_000000_000294", "a b", "..a", "a..", "..."),
    *("~", "~root/x", "$HOME", "C:", "a\\b", "caf\u00e9", "x" * 235, "-rf", "*", "%2F"),
)


def random_names(count):
    """Returns names that are made of parts of paths."""
    rng = random.Random(0)
    parts = ("/", "..", ".", "a", "b", "~", "\\", ":", "\0", " ", "\u00e9", "tmp")
    return ["".join(rng.choices(parts, k=rng.randint(0, 6))) for _ in range(count)]


NAMES = [*HOSTILE, *HARMLESS, *random_names(20)]


def is_refused(name):
    try:
        check_name(name, what="image id")
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_path_below_refuses_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(ValueError, match="the image id .* can't name a file: ") as info:
        path_below(tmp_path, name, what="image id")
    assert len(str(info.value)) < 450
    assert list(tmp_path.iterdir()) == []


def test_path_below_keeps_harmless_names(tmp_path):
    for name in HARMLESS:
        path = path_below(tmp_path, name, what="image id", ending=".png")
        assert path == tmp_path / f"{name}.png"


def test_path_below_keeps_different_names_different_and_inside(tmp_path):
    paths = {}
    for name in {*NAMES, *random_names(300)}:
        if not is_refused(name):
            path = path_below(tmp_path, name, what="image id", ending=".png")
            assert path.resolve().is_relative_to(tmp_path)
            assert path.resolve() != tmp_path
            assert paths.setdefault(path.resolve(), name) == name
    assert len(paths) > 50


class NamedSource(Source):
    def __init__(self, name):
        super().__init__()
        self[:] = [name, "street"]


def semantic_prediction(rows=3):
    return SemanticPrediction(np.zeros((rows, 6, 9), np.int32))


PREDICTIONS = {"panoptic": panoptic_prediction, "semantic": semantic_prediction}


def written(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("task", PREDICTIONS)
def test_submission_writes_into_its_folder_alone(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        before = written(tmp_path)
        folder = tmp_path / f"{number}" / "out"
        try:
            with Submission(folder, NamedSource(name), task=task) as write:
                write(make_batch(), PREDICTIONS[task]())
        except ValueError:
            assert is_refused(name)
            assert written(tmp_path) == before
        else:
            new = written(tmp_path) - before
            assert new and all(path.is_relative_to(folder) for path in new)


def test_pictures_of_an_evaluation_lie_in_their_folder_alone(tmp_path, monkeypatch):
    image = np.zeros((2, 2, 3), np.uint8)
    nothing = Segmentation(labels=np.zeros(0, np.int32), id_map=image[..., 0])
    picture = Picture(image, [nothing])
    monkeypatch.setattr(pictures, "evaluation_pictures", lambda *_, **__: [picture])
    monkeypatch.setattr(pictures, "draw_comparison", lambda *_: image)
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        before = written(tmp_path)
        folder = tmp_path / f"{number}" / "out"
        write = pictures.PictureWriter(
            folder, NamedSource(name), task="semantic", num_pictures=1
        )
        batch = make_batch(index=(0,), sizes=((2, 2),))
        try:
            write(batch, None)
        except ValueError:
            assert is_refused(name)
        new = written(tmp_path) - before
        assert len(new) == (not is_refused(name))
        assert all(path.is_relative_to(folder) for path in new)


@pytest.mark.parametrize("name", ["/../../x", "a/../x", "a\0"])
def test_results_of_a_dataset_with_a_hostile_name_are_refused(tmp_path, name):
    source = Source()
    source.info = dataclasses.replace(source.info, name=name)
    with pytest.raises(ValueError, match="name of the results .* can't name a file"):
        scoring._default_out(tmp_path, 3, source, "panoptic")


class Named(RecordBuilder):
    """A dataset of one pixel whose id is the item."""

    classes = (ClassInfo(1, "street", False, (1, 1, 1)),)

    def make_record(self, item):
        return Record(
            image_bytes=b"",
            labels=np.zeros(1, np.int32),
            is_crowd=np.zeros(1, bool),
            image_id=item,
            height=1,
            width=1,
            segment_map=np.ones((1, 1), np.uint16),
        )


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_preparing_refuses_an_id_that_no_file_can_have(name):
    problems = []
    builder = Named.__new__(Named)
    assert builder._try_record(name, problems, set()) is None
    assert len(problems) == 1 and "can't name a file" in problems[0]
    assert builder._try_record("street", problems, set()) is not None


def test_folder_that_is_not_utf8_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'runs/a\\udcff' is not UTF-8"):
        check_utf8("runs/a\udcff")
    check_utf8("runs/Fotoğraf")
