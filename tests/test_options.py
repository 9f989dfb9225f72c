"""Options of a run: ranges, sentences, and the recipes that are made of them."""

import copy
import dataclasses
import math
import re

import pytest

from configs import common
from eomt_jax.options import (
    Whole,
    fields_of,
    format_options,
    from_config,
    list_options,
    option,
)
from eomt_jax.training.options import RunOptions
from tests.configs.golden import RECIPES, fields, get_config

OPTIONS = dict(list_options(RunOptions))

# No field, of any type, takes one of these.
NEVER = (math.nan, math.inf, -math.inf, 1e30, -1e30, None, [], "a\0b", -2)


def with_value(name, value):
    """Returns the base of all recipes with one field replaced by any value."""
    config = common.get_config().copy_and_resolve_references()
    config = config.unlock()
    section, _, field = name.rpartition(".")
    with config.ignore_type():
        (config[section] if section else config)[field] = value
    return config


def test_every_field_of_every_recipe_has_a_range_and_is_within_it():
    for recipe in RECIPES:
        config = get_config(recipe)
        from_config(RunOptions, config)
        assert {name for name, _ in fields(config)} == OPTIONS.keys()


def test_field_without_a_range_is_refused_by_name():
    config = common.get_config().unlock()
    config.optimizer.momentum = 0.9
    with pytest.raises(ValueError, match="config.optimizer.momentum has no range"):
        from_config(RunOptions, config)


def test_field_that_is_missing_is_refused_by_name():
    config = common.get_config().unlock()
    del config.criterion.num_points
    with pytest.raises(ValueError, match="config.criterion.num_points is missing"):
        from_config(RunOptions, config)


@pytest.mark.parametrize("name", OPTIONS)
def test_value_of_no_use_is_refused_by_the_name_of_its_field(name):
    for value in NEVER:
        with pytest.raises(ValueError, match=rf"^config\.{name} = "):
            from_config(RunOptions, with_value(name, copy.deepcopy(value)))


@pytest.mark.parametrize(
    "name, value",
    [
        ("criterion.num_points", -1),
        ("criterion.num_points", 0),
        ("criterion.mask_weight", 0.0),
        ("criterion.importance_ratio", 1.5),
        ("criterion.oversample_ratio", 0.5),
        ("annealing.power", 0.0),
        ("annealing.length", 0.0),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.learning_rate", -1.0),
        ("optimizer.clip_norm", 0.0),
        ("optimizer.beta1", 1.0),
        ("optimizer.power", -1.0),
        ("augmentation.scale_range", ("a", "b")),
        ("augmentation.scale_range", (1e30, 1e30)),
        ("augmentation.scale_range", (2.0, 0.5)),
        ("augmentation.scale_range", (0.5, 1.0, 2.0)),
        ("mesh.data", 0),
        ("seed", -1),
        ("batch_size", True),
        ("image_size", 640.0),
        ("model.remat", 1),
        ("model.variant", "huge"),
        ("model.dtype", "int8"),
        ("dataset.name", "../mine"),
        ("checkpoint.keep", 0),
    ],
)
def test_value_out_of_range_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^config\.{name} = .*: it must be "):
        from_config(RunOptions, with_value(name, value))


@pytest.mark.parametrize(
    "name, value",
    [
        ("mesh.data", -1),
        ("optimizer.frozen_blocks", -1),
        ("optimizer.weight_decay", 0),
        ("optimizer.beta1", 0.0),
        ("criterion.importance_ratio", 0.0),
        ("augmentation.scale_range", [1, 1]),
        ("dataset.train_split", "train[:10%]"),
        ("init.checkpoint", "tue-mps/ade20k@main"),
        ("dataset.data_dir", "gs://bücket/a b"),
    ],
)
def test_value_at_the_edge_is_taken(name, value):
    from_config(RunOptions, with_value(name, value))


def test_many_problems_are_told_at_once_but_not_all():
    config = common.get_config().unlock()
    for name in ("mask_weight", "dice_weight", "class_weight", "no_object_weight"):
        config.criterion[name] = math.nan
    for name in ("learning_rate", "weight_decay", "power", "eps", "clip_norm"):
        config.optimizer[name] = math.nan
    with pytest.raises(ValueError) as caught:
        from_config(RunOptions, config)
    lines = str(caught.value).splitlines()
    assert len(lines) == 9
    assert lines[-1] == "… and 1 more"


def test_recipe_becomes_typed_options():
    config = common.get_config()
    config.optimizer.learning_rate = 1e-3
    config.augmentation.scale_range = (0.5, 1.5)
    options = from_config(RunOptions, config)
    assert options.optimizer.learning_rate == 1e-3
    assert options.augmentation.scale_range == (0.5, 1.5)
    assert options.criterion == RunOptions().criterion
    assert from_config(RunOptions, common.get_config()) == RunOptions()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_field_has_a_sentence_and_takes_its_default(name):
    field = OPTIONS[name]
    assert field.range.accepts(field.default)
    assert re.fullmatch(r"[A-Z].{20,}\.", field.sentence)


def test_fields_are_printed_with_sentence_range_and_default():
    @dataclasses.dataclass
    class Section:
        depth: int = option(2, Whole(1, 9), "The tree has this many levels.")

    @dataclasses.dataclass
    class Tree:
        section: Section
        seed: int = option(0, Whole(0, 1000), "Everything random follows from it.")

    assert (
        format_options(Tree)
        == """\
  --config.seed: Everything random follows from it.
    (a whole number from 0 to 1,000; default: 0)
  --config.section.depth: The tree has this many levels.
    (a whole number from 1 to 9; default: 2)"""
    )


def test_fields_of_a_tree_have_dotted_names():
    assert fields_of({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}
