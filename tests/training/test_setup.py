"""A config is turned into the parts of a training, without a step."""

import dataclasses
import sys

import jax
import numpy as np
import pytest

from eomt_jax.training import setup
from eomt_jax.training.reporting.changed_length import describe_changed_length
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.native import model_folder
from tests.training.conftest import options


def test_masks_until_the_end_warn_unless_predictions_have_them_too(tiny_config):
    tiny_config.annealing.enabled = False
    tiny_config.annealing.if_disabled = "masked"
    run = setup.setup(tiny_config, devices=jax.devices()[:1])
    assert any("config.model.inference=masked" in text for text in run.warnings)
    tiny_config.model.inference = "masked"
    run = setup.setup(tiny_config, devices=jax.devices()[:1])
    assert run.initialization.model.masked_inference
    assert not any("inference" in text for text in run.warnings)


def test_batch_that_the_mesh_cannot_split_names_its_field(tiny_config):
    tiny_config.batch_size = 3
    with pytest.raises(ValueError, match="batch_size = 3"):
        setup.setup(tiny_config, devices=jax.devices()[:2])
    tiny_config.batch_size, tiny_config.eval.batch_size = 4, 5
    with pytest.raises(ValueError, match="eval.batch_size = 5"):
        setup.setup(tiny_config, devices=jax.devices()[:2])


def test_tracker_without_its_package_is_refused_before_anything_else(
    tiny_config, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tiny_config.logging.tracker = "wandb"
    tiny_config.dataset.name = "nothing"
    with pytest.raises(ImportError, match=r"tracker = wandb .* 'eomt_jax\[wandb\]'"):
        setup.setup(tiny_config, devices=jax.devices()[:1])


def test_dataset_that_is_not_prepared_says_how(tiny_config):
    tiny_config.dataset.name = "coco_panoptic"
    with pytest.raises(ValueError, match="data/prepare.py coco_panoptic"):
        setup.setup(tiny_config, devices=jax.devices()[:1])


def test_training_position_counts_examples_of_all_epochs(tiny_config):
    run = setup.setup(tiny_config, devices=jax.devices()[:1])
    position = run.position(7)
    assert position.next_example == 14
    assert position.dataset == "shapes"
    with run.train_batches(start_example=position.next_example) as batches:
        expected = next(batches)
    with run.train_batches(start_example=0) as batches:
        for _ in range(8):
            batch = next(batches)
    jax.tree.map(np.testing.assert_array_equal, batch, expected)


def test_another_length_says_what_becomes_of_rates_and_masks(tiny_config):
    tiny_config.total_steps = 100
    tiny_config.optimizer.power = 1.0
    tiny_config.annealing.power = 1.0
    run = setup.setup(tiny_config, devices=jax.devices()[:1])
    told = describe_changed_length(run, {"total_steps": 50, "epochs": 12}, 25)
    # Warm-ups have one step; the block's mask fades out from 1/6 to 2/6 of the run.
    assert "After step 25 the learning rate outside the ViT is 0.000758, at" in told
    assert "old length of 50 steps it is 0.00051; of the queries 50% are" in told
    assert "layer by layer, there 0%." in told
    assert describe_changed_length(run, {"total_steps": 100, "epochs": 3}, 25) == ""
    assert describe_changed_length(run, {"total_steps": "x", "epochs": 3}, 25) == ""


def test_patience_without_the_best_checkpoint_is_refused(tiny_config):
    tiny_config.eval.patience = 2
    with pytest.raises(ValueError, match="eval.patience = 2 needs evaluations and"):
        setup.setup(tiny_config, devices=jax.devices()[:1])


def test_frozen_blocks_without_weights_are_refused(tiny_config):
    tiny_config.optimizer.frozen_blocks = -1
    with pytest.raises(ValueError, match="frozen_blocks = -1 .* drawn at random"):
        setup.setup(tiny_config, devices=jax.devices()[:1])


def test_fine_tuning_starts_from_the_checkpoint_and_trains_a_part(
    tiny_config, tmp_path
):
    trained = setup.setup(tiny_config, devices=jax.devices()[:1])
    model, params = trained.initialization.model, trained.create_state().params
    model_folder.save(tmp_path / "eomt", model, params, dataset_info=trained.info)

    tiny_config.init.checkpoint = str(tmp_path / "eomt")
    tiny_config.seed = 1
    tiny_config.optimizer.frozen_blocks = 1
    run = setup.setup(tiny_config, devices=jax.devices()[:1])
    state = run.create_state()
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    assert set(state.opt_state.mu["vit"]) == {"block_1", "norm"}


def info_with(*splits):
    return DatasetInfo("mine", (), (8, 8), 1, dict.fromkeys(splits, 4))


def test_dataset_without_validation_is_trained_on_without_evaluations(capsys):
    config = options()
    reviewed = setup._with_a_split_to_review(config, info_with("train", "test"))
    assert reviewed.eval.every_steps == 0
    assert reviewed.dataset.eval_split == "validation"  # as eval.py will read it
    assert reviewed.logging.picture_every_steps == 1000
    assert config.eval.every_steps == 5000  # the recipe itself stays as it is
    assert (
        "mine has no validation split (it has test, train)" in capsys.readouterr().out
    )

    config = options(**{"dataset.eval_split": "train[:3]"})
    assert setup._with_a_split_to_review(config, info_with("train")) is config


def test_evaluation_split_that_the_dataset_lacks_is_refused_before_training():
    night = {"dataset.eval_split": "night"}
    config = options(**night)
    with pytest.raises(
        ValueError, match="eval_split = night: mine has no .* has train"
    ):
        setup._with_a_split_to_review(config, info_with("train"))
    never = {"eval.every_steps": 0, "logging.picture_every_steps": 0}
    config = options(**night, **never)
    assert setup._with_a_split_to_review(config, info_with("train")) is config


@pytest.mark.parametrize("num_segments", [8, 9, 40])
def test_more_segments_than_queries_are_a_sentence_at_the_start(
    tiny_config, monkeypatch, num_segments
):
    run = setup.setup(tiny_config, devices=jax.devices()[:1])
    assert run.initialization.model.num_queries == 8
    info = dataclasses.replace(run.info, max_segments=num_segments)
    monkeypatch.setattr(setup.Setup, "info", info)
    found = [text for text in run.warnings if "queries" in text]
    if num_segments == 8:
        assert found == []
    else:
        (text,) = found
        assert f"{num_segments} segments and the network 8 queries" in text
        assert f"{num_segments - 8} of them are never found" in text
        assert f"--config.model.num_queries={num_segments} or more" in text
