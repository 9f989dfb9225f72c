"""The recipes of the ladder are those of EoMT with another network and its masks."""

import importlib

import pytest

from configs import ladder
from tests.configs.golden import fields

MASKED = {
    "annealing.enabled": False,
    "annealing.if_disabled": "masked",
    "model.inference": "masked",
}


@pytest.mark.parametrize("base", sorted(set(ladder.BASES) - {"tiny"}))
@pytest.mark.parametrize(
    ("step", "features"),
    [("0", "adapter"), ("1", "pyramid"), ("2", "pyramid_only"), ("3", "single_scale")],
)
def test_steps_of_mask2former_differ_by_the_network_and_its_masks(base, step, features):
    network = {"model.name": "mask2former", "model.features": features}
    assert differing(f"{step}_{base}") == {**MASKED, **network}


@pytest.mark.parametrize("base", ["small", "giant"])
def test_last_two_steps_are_eomt_with_masks_and_without(base):
    assert differing(f"4_{base}") == MASKED
    assert differing(f"5_{base}") == {}


def differing(name):
    base = importlib.import_module(f"configs.{ladder.BASES[name[2:]]}").get_config()
    config = ladder.get_config(name)
    assert config.is_locked
    before = dict(fields(base))
    return {key: value for key, value in fields(config) if value != before[key]}


@pytest.mark.parametrize("name", ["6_large", "0_huge", "large", "0", ""])
def test_unknown_steps_are_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match="steps 0 to 5.*small, base, large, giant"):
        ladder.get_config(name)
