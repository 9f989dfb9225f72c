"""Tests of warnings about tasks that make no sense for the classes, and far scales."""

import dataclasses

import pytest

from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.task_registry import get_task, task_names
from tests.predict.channel_network import INFO, BrightestChannel, channel_params
from tests.predict.test_segmenter import photograph


def with_classes(count, is_thing, task):
    classes = [dataclasses.replace(c, is_thing=is_thing) for c in INFO.classes[:count]]
    return dataclasses.replace(INFO, classes=tuple(classes), task=task)


@pytest.mark.parametrize(
    ("info", "task", "words"),
    [
        (with_classes(1, True, "instance"), "semantic", "'class 0' is the only one"),
        (with_classes(1, False, "semantic"), "semantic", "'class 0' is the only one"),
        (with_classes(4, True, "instance"), "semantic", "all of fake are things"),
        (with_classes(4, True, "instance"), "panoptic", "the background stays empty"),
        (with_classes(4, False, "semantic"), "panoptic", "all objects of its class"),
        (with_classes(4, True, "semantic"), "instance", "all objects of its class"),
        *((INFO, task, "") for task in task_names()),
        *((with_classes(4, True, task), task, "") for task in task_names()),
    ],
)
def test_tasks_that_classes_make_senseless_are_noted(info, task, words):
    note = get_task(task).class_note(info)
    assert words in note and bool(words) == bool(note)


def test_segmenter_warns_of_senseless_tasks_and_scales():
    info = with_classes(4, True, "instance")
    with pytest.warns(UserWarning, match="all of fake are things"):
        Segmenter(BrightestChannel(), channel_params(), info, task="semantic")
    info = dataclasses.replace(info, max_image_size=(96, 80))
    found = Segmenter(BrightestChannel(), channel_params(), info)
    with pytest.warns(UserWarning) as caught:
        found(photograph((24, 30)), task="semantic", tile=True)
    first, second = (str(warning.message) for warning in caught)
    assert "all of fake are things" in first
    assert "3 times as large in tiles" in second
