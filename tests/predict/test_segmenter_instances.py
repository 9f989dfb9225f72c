"""A Segmenter gives the asked number of instances, and the best of duplicates."""

import functools

import numpy as np
import pytest

from eomt_jax.models.eomt import EoMT
from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import INFO
from tests.predict.test_segmenter import random_eomt


def post_processing(masks, **options):
    """Returns a function that gives instances; each query has another probability."""
    masks = np.asarray(masks, np.float32)
    model = random_eomt()[0].clone(num_queries=len(masks))
    segmenter = Segmenter(model, {}, INFO, task="instance", **options)
    classes = np.random.default_rng(0).normal(0, 1, (len(masks), 5)).astype(np.float32)
    arguments = [(masks, classes)], (24, 32), (30, 40), "instance", 0.0
    return functools.partial(segmenter.network.post_process, *arguments)


def instances_of(masks, **options):
    """Returns instances of mask logits."""
    return post_processing(masks, **options)()


@pytest.mark.parametrize(
    ("num_queries", "max_instances", "expected"),
    [(150, None, 150), (20, None, 40), (60, None, 100), (150, 7, 7)],
)
def test_segmenter_gives_as_many_instances_as_there_are_queries(
    monkeypatch, num_queries, max_instances, expected
):
    """Each query has two classes of things; with fewer queries there may be 100."""
    monkeypatch.setattr(EoMT, "inference_params", lambda self, params: params)
    masks = np.full((num_queries, 8, 8), 5.0)
    assert len(instances_of(masks, max_instances=max_instances).labels) == expected


def test_segmenter_keeps_the_best_of_duplicates(monkeypatch):
    monkeypatch.setattr(EoMT, "inference_params", lambda self, params: params)
    masks = np.full((6, 8, 8), -5.0)
    masks[:3, :4], masks[3:, 4:] = 5.0, 5.0
    assert len(instances_of(masks).labels) == 12
    post_process = post_processing(masks, nms_iou=0.7)
    kept = post_process()
    # There is one instance of each class at each of the two places.
    assert sorted(kept.labels) == [0, 0, 1, 1]
    assert kept.masks.sum((1, 2)).max() < 30 * 40
    assert len(post_process(nms_iou=1.0).labels) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nms_iou": 0.0}, "nms_iou is 0.0; it must be above 0 and at most 1"),
        ({"nms_iou": 1.5}, "nms_iou is 1.5; it must be above 0 and at most 1"),
        ({"max_instances": 0}, "max_instances is 0; it must be at least 1"),
    ],
)
def test_segmenter_refuses_limits_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(*random_eomt(), INFO, **options)
