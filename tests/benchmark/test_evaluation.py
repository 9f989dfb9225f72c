"""A panoptic evaluation is timed, and PyTorch's is the same job."""

import dataclasses
import functools
from collections import defaultdict

import jax
import numpy as np
import pytest

from data import prepare, shapes
from eomt_jax.benchmark import evaluation
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
    """Model, parameters and source."""
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
    assert "| eomt_jax |" in evaluation.format_result(result)
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


@pytest.mark.parity
def test_pytorch_finds_the_same_quality(job, config):
    pytest.importorskip("transformers")
    pytest.importorskip("torch").set_num_threads(1)
    from eomt_jax.benchmark import torch_evaluation

    model, _, source = job
    result = evaluation.measure(
        *job,
        num_images=3,
        batch_size=2,
        rounds=1,
        num_kept=2,
        make_rivals=functools.partial(
            torch_evaluation.make_rivals,
            model=model,
            criterion=config.criterion,
            source=source,
            modes=("eager",),
        ),
    )
    ours, theirs = result.scores[evaluation.OURS], result.scores["PyTorch, eager"]
    assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
    assert ours.tp + ours.fp > 0
    assert ours.pq == pytest.approx(theirs.pq, abs=0.01)
    parts = result.rival_parts["PyTorch, eager"]
    assert sum(parts.values()) <= result.timings["PyTorch, eager"].median


@pytest.mark.parity
def test_pytorch_counts_a_good_prediction_as_panopticapi():
    """One match, one wrong class, one on a crowd, one on void, one target missed."""
    pytest.importorskip("transformers")
    from eomt_jax.benchmark import torch_evaluation

    target_map = np.repeat([1, 1, 1, 2, 2, 3, 0, 4], 4)[None]
    id_map = np.repeat([1, 1, 1, 2, 2, 3, 4, 0], 4)[None]
    id_map[0, 11] = 0
    counts = defaultdict(lambda: np.zeros(4))
    torch_evaluation.add_counts(
        counts,
        id_map,
        {1: 0, 2: 1, 3: 2, 4: 1},
        target_map,
        {1: 0, 2: 0, 3: 2, 4: 1},
        {3},
    )
    assert {label: list(row) for label, row in counts.items()} == {
        0: [11 / 12, 1, 0, 1],
        1: [0, 0, 1, 1],
    }
    score = torch_evaluation.total_score(counts)
    assert (score.tp, score.fp, score.fn) == (1, 1, 2)
    assert score.pq == pytest.approx(100 * (11 / 12 / 1.5) / 2)
