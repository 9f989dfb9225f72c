"""eomt-benchmark's measurements run on a small network, whose times don't matter."""

import jax
import pytest

from eomt_jax.benchmark import inference, train_step
from eomt_jax.datasets import prepare, shapes
from eomt_jax.models import variants
from eomt_jax.training.setup import setup
from tests.training.conftest import make_config, register_micro_variant


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "VARIANTS", dict(variants.VARIANTS))
    monkeypatch.setattr(shapes, "NUM_EXAMPLES", {"train": 10, "validation": 3})
    register_micro_variant()
    prepare.prepare("shapes", tmp_path)
    config = make_config(str(tmp_path))
    config.criterion.matcher = "scipy"
    return setup(config, devices=jax.devices()[:1])


def test_inference_is_timed_for_each_batch_size_beside_its_rivals(run):
    seen = []

    def rival(images):
        seen.append(images.shape)
        return lambda: None

    model = run.initialization.model
    params = run.create_state().params
    one, two = inference.measure(
        model, params, batch_sizes=(1, 2), rounds=3, rivals={"rival": rival}
    )
    assert seen == [(1, 32, 32, 3), (2, 32, 32, 3)]
    assert two.flops == 2 * one.flops > 0 and one.share > 0
    for result in (one, two):
        assert set(result.timings) == {inference.OURS, inference.UNPADDED, "rival"}
        assert len(result.timings["rival"].seconds) == 3
    table = inference.format_results([one, two])
    assert table.count("| rival |") == table.count(f"| {inference.UNPADDED} |") == 2
    assert "GFLOP/s" in table
    assert inference.as_json([one])[0]["batch_size"] == 1


def test_training_step_is_taken_apart(run):
    result = train_step.measure(run, rounds=2)
    assert result.num_targets > 0 and result.flops > 0 and result.data > 0
    # The solver was called for each step, and is part of the loss.
    assert 0 < result.matching < result.timings[train_step.LOSS].median
    parts = result.parts()
    sums = sum(parts[name] for name in parts if name != "of it scipy on the host")
    assert sums == pytest.approx(result.timings[train_step.OURS].median)
    table = train_step.format_result(result)
    assert "matching and loss" in table
    padded = f"padded to {2 * result.max_targets} and not {result.max_targets} rows"
    assert padded in table
    # The loss by itself, which holds its gradient too, is not the whole step.
    alone = result.timings[train_step.LOSS_ALONE].median
    assert 0 < alone < result.timings[train_step.OURS].median
    assert train_step.as_json(result)["batch_size"] == 2
