"""Preparing samples and only decoding are timed, on a few small photographs."""

import os

import pytest

from eomt_jax.benchmark import input_pipeline
from eomt_jax.datasets import prepare, shapes
from eomt_jax.pipeline import transforms
from eomt_jax.pipeline.records import open_split
from eomt_jax.pipeline.samples import TrainOptions


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "NUM_EXAMPLES", {"train": 6, "validation": 1})
    prepare.prepare("shapes", tmp_path)
    return open_split(tmp_path, "shapes", "train")


def test_preparation_is_timed_beside_decoding_and_taken_apart(source):
    cores = os.sched_getaffinity(0)
    crop_image = transforms.crop_image
    options = TrainOptions(image_size=32, color_jitter=True)
    result = input_pipeline.measure(source, options, rounds=3)
    # The measurement restores what it changed.
    assert os.sched_getaffinity(0) == cores
    assert transforms.crop_image is crop_image

    assert result.num_images == 6
    prepared = result.timings[input_pipeline.PREPARE]
    decoded = result.timings[input_pipeline.DECODE]
    assert len(prepared.seconds) == len(decoded.seconds) == 3
    # Preparing a sample includes decoding its photograph.
    assert 0 < result.ratio < 1
    assert len(result.parts) == 6 and min(result.parts.values()) > 0
    table = input_pipeline.format_result(result)
    assert "with colour jitter" in table and "| targets |" in table
    assert input_pipeline.as_json(result)["ratio"] == result.ratio


def test_colours_take_nothing_where_they_stay(source):
    result = input_pipeline.measure(
        source, TrainOptions(image_size=32), rounds=1, num_images=2
    )
    assert result.num_images == 2 and result.parts["colours"] == 0
    assert "without colour jitter" in input_pipeline.format_result(result)
