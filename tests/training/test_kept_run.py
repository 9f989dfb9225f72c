"""Runs of every released layout of checkpoints can be continued and used."""

import shutil

import jax
import numpy as np

from eomt_jax.datasets import prepare, shapes
from eomt_jax.models import variants
from eomt_jax.training import loop
from eomt_jax.weights.native import model_folder
from tests.training import kept_run


def test_kept_run_gives_its_logits_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(variants, "VARIANTS", dict(variants.VARIANTS))
    monkeypatch.setattr(shapes, "NUM_EXAMPLES", {"train": 10, "validation": 3})
    workdir = tmp_path / "run"
    shutil.copytree(kept_run.FOLDER, workdir)
    wanted = np.load(workdir / "logits.npz")
    got = kept_run.logits(workdir)
    for name in wanted.files:
        np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=1e-4)
        assert np.abs(wanted[name]).max() > 0.01

    prepare.prepare("shapes", tmp_path)
    config = kept_run.recipe(tmp_path)
    state = loop.train(config, workdir, devices=jax.devices()[:1])
    assert int(state.step) == kept_run.LAST_STEP
    step = workdir / model_folder.STEPS_FOLDER / str(kept_run.STEP)
    assert f"Going on from {step}." in capsys.readouterr().out
