"""A panoptic evaluation is timed, whole and in parts."""

import dataclasses

import jax
import pytest

from eomt_jax.benchmark import evaluation
from eomt_jax.datasets import prepare, shapes
from eomt_jax.models import variants
from eomt_jax.pipeline.records import open_split
from eomt_jax.training.setup import setup
from tests.training.conftest import make_config, register_micro_variant


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "NUM_EXAMPLES", {"train": 10, "validation": 3})
        prepare.prepare("shapes", folder)
    return folder


@pytest.fixture
def config(data_dir, monkeypatch):
    monkeypatch.setattr(variants, "VARIANTS", dict(variants.VARIANTS))
    register_micro_variant()
    return make_config(str(data_dir))


@pytest.fixture
def job(config):
    """Returns model, parameters and source."""
    run = setup(config, devices=jax.devices()[:1])
    source = open_split(config.dataset.data_dir, "shapes", "validation")
    return run.initialization.model, run.create_state().params, source


def test_evaluation_is_taken_apart(job):
    result = evaluation.measure(*job, num_images=3, batch_size=2, rounds=2, num_kept=1)
    timings = result.timings
    assert len(timings[evaluation.OURS].seconds) == 2
    parts = result.parts()[evaluation.OURS]
    assert parts.pop("reading alone") == timings[evaluation.READING].median > 0
    assert sum(parts.values()) == pytest.approx(timings[evaluation.OURS].median)
    score = result.scores[evaluation.OURS]
    num_targets = sum((~record.is_crowd).sum() for record in job[2])
    assert score.tp + score.fn == num_targets > 0
    assert 0 < score.tp + score.fp
    # Drawn squares have no padding.
    assert result.scores[evaluation.UNPADDED] == score
    table = evaluation.format_result(result)
    assert "| eomt_jax |" in table and "| eomt_jax, without padding |" in table
    assert evaluation.as_json(result)["num_images"] == 3


def test_weights_that_see_no_object_lose_it(job):
    model, params, source = job
    bias = params["class_head"]["bias"].at[-1].set(50.0)
    params = {**params, "class_head": {**params["class_head"], "bias": bias}}
    result = evaluation.measure(
        model, params, source, num_images=3, batch_size=3, rounds=1, num_kept=1
    )
    assert result.score_threshold > 0
    score = result.scores[evaluation.OURS]
    assert 0 < score.tp + score.fp <= 3


def test_another_annotation_than_panoptic_is_refused(job, monkeypatch):
    model, params, source = job
    monkeypatch.setattr(
        source, "info", dataclasses.replace(source.info, task="semantic")
    )
    with pytest.raises(ValueError, match="annotated for semantic segmentation alone"):
        evaluation.measure(model, params, source, num_images=1, batch_size=1, rounds=1)
