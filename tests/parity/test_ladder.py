"""Sizes of the paper's networks, as counted on the original implementations."""

import pytest

from eomt_jax.benchmark.ladder import count_gflops, count_params, create_steps
from eomt_jax.models.ladder import STEPS
from eomt_jax.models.registry import ModelOptions


def steps(variant, **changes):
    options = ModelOptions(variant=variant, dtype="float32", **changes)
    return create_steps(options, num_classes=133, image_size=(640, 640))


@pytest.mark.parametrize(
    ("variant", "step", "params", "gflops"),
    [
        ("small", 0, 46_559_190, 164.5),
        ("base", 0, 120_961_830, 346.5),
        ("large", 0, 348_674_054, 830.1),
        ("giant", 0, 1_208_646_086, 2510.2),
        ("large", 1, 342_263_622, 739.7),
        ("large", 2, 337_211_782, 685.4),
        ("large", 3, 328_273_286, 673.1),
        ("large", 4, 316_695_686, 828.2),
        ("large", 5, 316_695_686, 668.5),
    ],
)
def test_parameters_and_multiply_adds_are_those_of_the_original(
    variant, step, params, gflops
):
    model = steps(variant)[step]
    assert count_params(model) == params
    # The paper's numbers of parameters are cut, not rounded.
    assert params // 1e6 <= STEPS[step].published[variant].params <= -(-params // 1e6)
    assert count_gflops(model) == pytest.approx(gflops, rel=0.01)
