"""Numbers in masks are taken for classes or for objects."""

import numpy as np
import pytest

from eomt_jax.datasets.mask_pngs import Pixels
from eomt_jax.own_data import mask_survey


def survey(*masks):
    return mask_survey.survey(
        (f"{i}.png", Pixels(np.array(mask, np.uint16), None))
        for i, mask in enumerate(masks)
    )


def colored(*masks):
    rgb = [np.array(mask, np.uint8)[..., None] * [1, 0, 2] for mask in masks]
    return mask_survey.survey(
        (f"{i}.png", Pixels(None, array.astype(np.uint8)))
        for i, array in enumerate(rgb)
    )


ONE_OBJECT = [[0, 1, 1], [0, 0, 0]]
THREE_OBJECTS = [[0, 1, 1], [2, 0, 3]]


@pytest.mark.parametrize(
    ("masks", "task"),
    [
        ((ONE_OBJECT, THREE_OBJECTS), "instance"),
        # A gap, the same number in all, and objects in several pieces are classes.
        ((ONE_OBJECT, [[0, 1, 1], [3, 0, 0]]), "semantic"),
        ((THREE_OBJECTS, THREE_OBJECTS), "semantic"),
        ((ONE_OBJECT, [[1, 0, 1], [0, 0, 2]]), "semantic"),
        (([[0, 0], [0, 1]], [[0, 0], [0, 0]]), "semantic"),
        (([[0, 255]], [[255, 255]]), "semantic"),
        (([list(range(40))], [list(range(100, 140))]), "instance"),
    ],
)
def test_decide_task_without_a_class_list(masks, task):
    assert mask_survey.decide_task(survey(*masks)) == task


def test_decide_task_goes_by_the_user_and_then_by_the_class_list():
    found = survey(ONE_OBJECT, THREE_OBJECTS)
    assert mask_survey.decide_task(found, task="semantic", num_listed=1) == "semantic"
    assert mask_survey.decide_task(found, num_listed=4) == "semantic"
    classes = survey(THREE_OBJECTS, THREE_OBJECTS)
    assert mask_survey.decide_task(classes, num_listed=1) == "instance"
    with pytest.raises(ValueError, match="can't give the task 'panoptic'"):
        mask_survey.decide_task(found, task="panoptic")


def test_name_classes_by_value_color_or_foreground():
    def names(found):
        return [(row["id"], row["name"]) for row in mask_survey.name_classes(found)]

    assert names(survey([[0, 3, 255]])) == [(0, "class_0"), (3, "class_3")]
    assert names(survey([[0, 255]])) == [(0, "background"), (255, "foreground")]
    found = colored([[0, 1]], [[5, 0]])
    assert names(found) == [
        (0, "color_000000"),
        (1, "color_010002"),
        (2, "color_05000a"),
    ]
    assert mask_survey.name_classes(found)[2]["color"] == [5, 0, 10]


@pytest.mark.parametrize(
    ("ids", "value"), [((0, 1), 255), ((0, 255), 65_535), ((255, 65_535), 65_534)]
)
def test_free_value_is_no_class(ids, value):
    assert mask_survey.free_value(ids) == value


def test_survey_photographs_and_mixed_masks_are_refused():
    with pytest.raises(ValueError, match="0.png has 1,200 different values"):
        survey([list(range(1200))])
    pixels = [
        ("a.png", Pixels(np.zeros((1, 2), np.uint16), None)),
        ("b.png", Pixels(None, np.array([[[1, 2, 3], [0, 0, 0]]], np.uint8))),
    ]
    with pytest.raises(ValueError, match="b.png has colours and a.png numbers"):
        mask_survey.survey(pixels)
