"""A record becomes an evaluation sample, for each task."""

import dataclasses

import jax
import numpy as np
import pytest

from eomt_jax.pipeline import transforms
from eomt_jax.pipeline.eval_samples import EvalSampler


@pytest.fixture
def sampler(drawn_source):
    """Returns a function that makes an EvalSampler over a DrawnSource."""

    def make(
        *, max_aspect_ratio=2.0, canvas_size=(70, 90), image_size=64, task="panoptic"
    ):
        source = drawn_source(4, crowd_only={2})
        source.info = dataclasses.replace(
            source.info, max_aspect_ratio=max_aspect_ratio
        )
        return EvalSampler(
            source=source,
            num_examples=3,
            image_size=image_size,
            canvas_size=canvas_size,
            max_targets=5,
            windows=task == "semantic",
            overlapping=task == "instance",
        )

    return make


def shapes(sample):
    """Returns shape and dtype of every array; they must be equal in all rows."""
    return jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), sample)


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_eval_sample_shows_the_original_map(sampler, task):
    sample_at = sampler(task=task)
    for index in range(3):
        record = sample_at.source[index]
        sample = sample_at(index)
        size = record.size
        np.testing.assert_array_equal(sample["original_size"], size)
        canvas = np.zeros((70, 90), np.uint8)
        canvas[: size[0], : size[1]] = record.segment_map
        np.testing.assert_array_equal(sample["targets"]["id_map"], canvas)
        np.testing.assert_array_equal(sample["targets"]["labels"][:3], record.labels)
        assert sample["targets"]["is_crowd"].sum() == (3 if index == 2 else 0)
        assert "replaced" not in sample


def test_eval_sample_of_instances_has_labels_and_no_masks(sampler):
    sample = sampler(task="instance")(2)
    record = sampler().source[2]
    assert sample["targets"].keys() == {"labels", "valid", "is_crowd"}
    np.testing.assert_array_equal(sample["targets"]["labels"][:3], record.labels)
    np.testing.assert_array_equal(sample["targets"]["is_crowd"], [1, 1, 1, 0, 0])


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_eval_sample_fits_the_photograph(sampler, task):
    sample = sampler(task=task)(0)
    assert sample["image"].shape == (64, 64, 3)
    height, width = sample["content_size"]
    assert max(height, width) == 64
    assert sample["image"][:height, :width].any(-1).all()
    assert not sample["image"][height:].any() and not sample["image"][:, width:].any()


def test_eval_sample_of_semantics_cuts_windows(sampler):
    sample_at = sampler(task="semantic", image_size=16)
    record = sample_at.source[0]
    sample = sample_at(0)
    image = transforms.decode_image(record.image_bytes)
    np.testing.assert_array_equal(
        sample["image"], transforms.cut_windows(image, 16, count=2)
    )
    size = transforms.cover_size(image.height, image.width, 16)
    np.testing.assert_array_equal(sample["content_size"], size)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_eval_sample_past_the_last_is_an_empty_row(sampler, task):
    sample_at = sampler(task=task)
    sample, empty = sample_at(0), sample_at(3)
    assert not empty["valid"] and empty["example_index"] == -1
    assert not empty["targets"]["valid"].any() and not empty["image"].any()
    assert empty["targets"].keys() == sample["targets"].keys()
    assert shapes(empty) == shapes(sample) == shapes(sample_at(1))


def test_eval_canvas_smaller_than_a_photograph_is_an_error(sampler):
    with pytest.raises(ValueError, match="'photo-000'.*don't fit the canvas of 20×20"):
        sampler(canvas_size=(20, 20))(0)


def test_eval_photograph_thinner_than_the_dataset_says_is_an_error(sampler):
    sample_at = sampler(task="semantic", max_aspect_ratio=1.0)
    with pytest.raises(
        ValueError, match="'photo-000'.*take 2 windows.*prepare it anew"
    ):
        sample_at(0)


def test_eval_overlapping_segments_are_for_instances_alone(sampler, monkeypatch):
    sample_at = sampler(task="panoptic")
    record = sample_at.source[0]
    overlapping = dataclasses.replace(record, segment_map=None, rles=())
    monkeypatch.setattr(type(sample_at.source), "__getitem__", lambda *_: overlapping)
    with pytest.raises(ValueError, match="'photo-000'.*may overlap.*\"instance\""):
        sample_at(0)
    assert dataclasses.replace(sample_at, overlapping=True)(0)["valid"]
