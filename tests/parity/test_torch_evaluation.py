"""The benchmark's PyTorch evaluation has the same results as ours."""

import functools
from collections import defaultdict

import jax
import numpy as np
import pytest

from eomt_jax.benchmark import evaluation
from eomt_jax.datasets import prepare, shapes
from eomt_jax.models import variants
from eomt_jax.pipeline.records import open_split
from eomt_jax.training.setup import setup
from tests.training.conftest import make_config, register_micro_variant

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from eomt_jax.benchmark import torch_evaluation

pytestmark = pytest.mark.parity


def test_pytorch_finds_the_same_quality(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "NUM_EXAMPLES", {"train": 10, "validation": 3})
    monkeypatch.setattr(variants, "VARIANTS", dict(variants.VARIANTS))
    prepare.prepare("shapes", tmp_path)
    register_micro_variant()
    config = make_config(str(tmp_path))
    run = setup(config, devices=jax.devices()[:1])
    source = open_split(config.dataset.data_dir, "shapes", "validation")
    model = run.initialization.model
    torch.set_num_threads(1)
    result = evaluation.measure(
        model,
        run.create_state().params,
        source,
        num_images=3,
        batch_size=2,
        rounds=1,
        num_kept=2,
        make_rivals=functools.partial(
            torch_evaluation.make_rivals,
            model=model,
            criterion=run.config.criterion,
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


def test_pytorch_counts_a_good_prediction_as_panopticapi():
    """There is a match, a wrong class, one on a crowd, one on void, a missed target."""
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
