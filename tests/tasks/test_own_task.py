"""A fourth task works everywhere, although no file of the library names it."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from eomt_jax.cli import predict
from eomt_jax.datasets import shapes
from eomt_jax.evaluation.baseline import ConstantClass
from eomt_jax.evaluation.evaluator import evaluate, evaluation_task
from eomt_jax.evaluation.options import EvalOptions
from eomt_jax.evaluation.pictures import PictureWriter
from eomt_jax.evaluation.submission import Submission
from eomt_jax.evaluation.tables import format_table, headline
from eomt_jax.options import list_options
from eomt_jax.pipeline.loader import eval_batches
from eomt_jax.predict.runner import Runner
from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.task_registry import get_task, register_task, task_names
from eomt_jax.types import DatasetInfo
from tests.predict.channel_network import (
    INFO,
    SIZE,
    BrightestChannel,
    channel_params,
)
from tests.tasks.foreground import Foreground

NUM_SCENES = 3


class Scenes:
    """A split of scenes, annotated for the task; classes 0 and 1 are things."""

    split = "validation"
    info = dataclasses.replace(
        INFO, max_image_size=(100, 100), max_segments=8, task="foreground"
    )

    def __len__(self):
        return NUM_SCENES

    def image_id(self, index):
        return f"scene{index}"

    def __getitem__(self, index):
        record = shapes.draw_record("validation", index)
        labels = np.where(record.labels < 3, record.labels % 2, 3)
        return dataclasses.replace(record, labels=labels.astype(np.int32))


@pytest.fixture(scope="module")
def photographs():
    records = map(Scenes().__getitem__, range(NUM_SCENES))
    images = (Image.open(io.BytesIO(record.image_bytes)) for record in records)
    return [np.asarray(image) for image in images]


@pytest.fixture(scope="module")
def predicted(photographs):
    """Returns the result of a Segmenter on each scene."""
    segmenter = Segmenter(BrightestChannel(), channel_params(), Scenes.info)
    return segmenter(photographs)


def score(predictor, *see):
    source = Scenes()
    with eval_batches(source, global_batch_size=2, image_size=SIZE) as batches:
        return evaluate(
            predictor,
            channel_params(),
            batches,
            info=source.info,
            source=source,
            on_batch=see,
        )


def test_own_task_is_known_wherever_a_task_is_named():
    assert task_names() == ("panoptic", "instance", "semantic", "foreground")
    assert DatasetInfo.from_json(Scenes.info.to_json()) == Scenes.info
    assert dict(list_options(EvalOptions))["task"].range.accepts("foreground")
    assert "'foreground'" in str(dict(list_options(EvalOptions))["task"].range)
    assert predict.parse_arguments(["a", "--checkpoint=b", "--task=foreground"]).task
    assert evaluation_task("foreground", INFO) == "foreground"
    with pytest.raises(ValueError, match="may be foreground$"):
        evaluation_task("semantic", Scenes.info)


def test_own_task_is_scored_submitted_and_drawn(tmp_path, photographs, predicted):
    runner = Runner(BrightestChannel(), Scenes.info)
    with Submission(tmp_path / "out", Scenes(), task=runner.task) as submit:
        draw = PictureWriter(tmp_path, Scenes(), task=runner.task, num_pictures=1)
        results = score(runner, submit, draw)

    found = np.array([result.id_map == 1 for result in predicted])
    records = [Scenes()[i] for i in range(NUM_SCENES)]
    wanted = np.array([r.masks()[..., r.labels < 2].any(-1) for r in records])
    iou = 100 * (found & wanted).sum() / (found | wanted).sum()
    assert 0 < iou < 100
    assert results["all"] == {"iou": pytest.approx(iou), "num_classes": 1}
    assert headline(results) == ("IoU", pytest.approx(iou))
    assert format_table(results).split()[:5] == [
        "IoU",
        "classes",
        "all",
        f"{iou:.1f}",
        "1",
    ]

    areas = found.sum((1, 2)).tolist()
    assert json.loads((tmp_path / "out/areas.json").read_text()) == [
        {"image": f"scene{i}", "area": area} for i, area in enumerate(areas)
    ]
    for i, mask in enumerate(found):
        png = np.asarray(Image.open(tmp_path / f"out/scene{i}.png"))
        np.testing.assert_array_equal(png, 255 * mask.astype(int))

    # The picture is the task's own: prediction and target are black without a thing.
    picture = np.asarray(Image.open(tmp_path / "scene0.png"))
    assert (picture == 0).all(-1).sum() >= (~found[0]).sum() + (~wanted[0]).sum()


def test_own_task_result_is_drawn_its_own_way(photographs, predicted):
    for image, result in zip(photographs, predicted, strict=True):
        mask = result.masks[0]
        np.testing.assert_array_equal(result.draw(), image * mask[..., None])
        np.testing.assert_array_equal(result.mask_picture(), 255 * mask.astype(int))
        assert result.to_coco()["info"]["task"] == "foreground"


def test_own_task_has_the_baseline_of_everything():
    records = [Scenes()[i] for i in range(NUM_SCENES)]
    share = np.mean([r.masks()[..., r.labels < 2].any(-1) for r in records])
    results = score(ConstantClass(0, Scenes.info))
    assert results["all"]["iou"] == pytest.approx(100 * share)


def test_own_task_that_has_no_tiles_says_so(photographs):
    segmenter = Segmenter(BrightestChannel(), channel_params(), Scenes.info)
    with pytest.raises(ValueError, match="foreground .*tiles"):
        segmenter(photographs[0], tile=True)


def test_get_task_that_does_not_exist_names_those_that_do():
    with pytest.raises(ValueError, match="'depth'.*panoptic, instance, semantic, fore"):
        get_task("depth")


@pytest.mark.parametrize("name", ["foreground", "panoptic"])
def test_register_task_takes_no_name_twice(name):
    task = get_task(name)
    with pytest.raises(ValueError, match=f"a task '{name}' already"):
        register_task(type("Other", (Foreground,), {"name": name}))
    assert get_task(name) is task
