"""Instance and semantic tasks are trained, resumed and evaluated."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_codec

from eomt_jax.datasets import shapes
from eomt_jax.evaluation.scoring import evaluate_checkpoint
from eomt_jax.training import loop

NUM_EXAMPLES = {"train": 4, "validation": 3}
HEIGHT = 64  # of 96: photographs are rarely square


class Cut(shapes.Shapes):
    """The shapes dataset for another task."""

    def plan(self):
        return {s: [(s, i) for i in range(n)] for s, n in NUM_EXAMPLES.items()}

    def make_record(self, item):
        record = super().make_record(item)
        image = Image.open(io.BytesIO(record.image_bytes)).crop(
            (0, 0, shapes.SCENE.size, HEIGHT)
        )
        encoded = io.BytesIO()
        image.save(encoded, format="PNG")
        return dataclasses.replace(
            record,
            image_bytes=encoded.getvalue(),
            segment_map=record.segment_map[:HEIGHT],
            height=HEIGHT,
        )


class Instances(Cut):
    """Things alone, a little larger than drawn, so that they overlap."""

    name = "shapes_instance"
    task = "instance"
    classes = shapes.CLASSES[:3]

    def make_record(self, item):
        record = super().make_record(item)
        masks = record.masks()
        shown = (record.labels < 3) & masks.any((0, 1))
        masks[:, 2:] |= masks[:, :-2]
        masks = np.asfortranarray(masks[..., shown], np.uint8)
        return dataclasses.replace(
            record,
            segment_map=None,
            rles=tuple(rle["counts"] for rle in mask_codec.encode(masks)),
            areas=masks.sum((0, 1)).astype(float),
            labels=record.labels[shown],
            is_crowd=record.is_crowd[shown],
        )


class Classes(Cut):
    """One segment for each class that occurs."""

    name = "shapes_semantic"
    task = "semantic"
    classes = tuple(dataclasses.replace(c, is_thing=False) for c in shapes.CLASSES)

    def make_record(self, item):
        record = super().make_record(item)
        present, segment = np.unique(record.labels, return_inverse=True)
        segment = np.append(0, segment + 1).astype(np.uint16)
        return dataclasses.replace(
            record,
            segment_map=segment[record.segment_map],
            labels=present.astype(np.int32),
            is_crowd=np.zeros(len(present), bool),
        )


@pytest.mark.parametrize(
    ("builder", "score"), [(Instances, "ap"), (Classes, "miou")], ids=["ap", "miou"]
)
def test_a_task_trains_resumes_and_is_scored_alike_in_and_after_training(
    builder, score, tiny_config, cache, tmp_path
):
    config = tiny_config
    config.compilation_cache = str(cache)  # to compile once what runs thrice
    builder(data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
    config.dataset.name = builder.name
    config.dataset.data_dir = str(tmp_path)
    config.total_steps = 4
    config.checkpoint.every_steps = 2
    config.eval.every_steps = 4
    config.eval.batch_size = 2
    config.logging.picture_every_steps = 4
    workdir = tmp_path / "run"

    devices = jax.devices()[:1]
    first = loop.train(config, workdir, devices=devices)
    (workdir / "checkpoints/4").rename(tmp_path / "lost")
    (workdir / "evaluations/00000004.json").unlink()
    again = loop.train(config, workdir, devices=devices)
    jax.tree.map(np.testing.assert_array_equal, again, first)

    in_training = json.loads((workdir / "evaluations/00000004.json").read_text())
    with Image.open(workdir / "pictures/00000004.png") as picture:
        assert picture.size[0] > 100
    config.eval.batch_size = 8  # over eight devices, with five empty rows
    after = evaluate_checkpoint(config, workdir)
    assert after["task"] == builder.task
    assert after["num_images"] == NUM_EXAMPLES["validation"]
    assert after["all"][score] == pytest.approx(in_training["all"][score])
    assert score == "ap" or after["all"][score] > 0
    assert after["per_class"] == in_training["per_class"]
