"""Length and annealing of a run follow its config."""

import numpy as np
import pytest

from eomt_jax.training import run_schedule
from tests.training.conftest import options


def test_steps_come_from_epochs_unless_given():
    # The last two of ten images don't make a batch.
    config = options(batch_size=4, epochs=3)
    assert run_schedule.count_steps(config, num_examples=10) == 6
    config = options(batch_size=4, epochs=3, total_steps=7)
    assert run_schedule.count_steps(config, num_examples=10) == 7


def test_no_length_is_refused():
    config = options(total_steps=0, epochs=0)
    with pytest.raises(ValueError, match="set total_steps or epochs"):
        run_schedule.count_steps(config, num_examples=100)


def test_annealing_follows_the_length_and_can_be_left_out():
    config = options()
    probs = run_schedule.mask_probs_schedule(
        config, total_steps=60, num_masked_layers=2
    )
    # Annealing starts at a sixth and at four sixths of the run.
    np.testing.assert_array_equal(probs(10), [1, 1])
    np.testing.assert_array_equal(probs(30), [0, 1])
    np.testing.assert_array_equal(probs(50), [0, 0])
    config = options(**{"annealing.enabled": False})
    probs = run_schedule.mask_probs_schedule(
        config, total_steps=60, num_masked_layers=2
    )
    np.testing.assert_array_equal(probs(0), [0, 0])


def test_training_without_annealing_masks_always_or_leaves_predictions_out():
    def schedule(if_disabled):
        changes = {"annealing.enabled": False, "annealing.if_disabled": if_disabled}
        return run_schedule.mask_probs_schedule(
            options(**changes), total_steps=60, num_masked_layers=2
        )

    np.testing.assert_array_equal(schedule("masked")(59), [1, 1])
    assert schedule("last_prediction_only")(0) is None


def test_annealing_has_its_own_length_and_first_block():
    annealing = {"annealing.length": 0.5, "annealing.first_block_end": 40}
    config = options(**annealing, **{"optimizer.published_steps": 480})
    # In a quarter of the published run, the first block's end shrinks as warm-ups do.
    spans = run_schedule.configured_annealing_steps(
        config, total_steps=120, num_masked_layers=3
    )
    assert spans == ((0, 25, 40), (10, 35, 50))
    # A longer run doesn't change it.
    spans = run_schedule.configured_annealing_steps(
        config, total_steps=960, num_masked_layers=3
    )
    assert spans == ((0, 200, 320), (40, 280, 400))
