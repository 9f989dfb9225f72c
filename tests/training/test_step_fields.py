"""Fields of a config that change the training step reach the program of the step."""

import dataclasses
import re

import jax
import numpy as np

from eomt_jax.models import variants
from eomt_jax.parallel.batch import place_batch
from eomt_jax.training import setup
from eomt_jax.training.options import RunOptions
from eomt_jax.trees import leaves_by_path

COMMON = {"model.dtype": "float32", "total_steps": 6000}
# A value of each field, and a number or word that the program has because of it. The
# run has half its published steps, so warm-ups and first_block_end are halved.
FIRST = {
    "accumulation": (2, "length=2"),
    "model.remat": (True, "remat"),
    "criterion.num_points": (1013, 1013),
    "criterion.oversample_ratio": (3.7, 3748),
    "criterion.importance_ratio": (0.6, 607),
    "criterion.mask_weight": (4.321, 4.321),
    "criterion.dice_weight": (6.543, 6.543),
    "criterion.class_weight": (1.987, 1.987),
    "criterion.no_object_weight": (0.1234, 0.1234),
    "criterion.matcher": ("scipy", "pure_callback"),
    "optimizer.learning_rate": (0.0234, 0.0234),
    "optimizer.warmup_head": (514, 257),
    "optimizer.warmup_vit": (1046, 523),
    "optimizer.power": (0.91, 0.91),
    "optimizer.published_steps": (12_000, 257),
    "optimizer.weight_decay": (0.0567, 0.0567),
    "optimizer.layer_decay": (0.77, 0.77),
    "optimizer.clip_norm": (0.0345, 0.0345),
    "optimizer.beta1": (0.876, 0.876),
    "optimizer.beta2": (0.987, 0.987),
    "optimizer.eps": (3.21e-7, 3.21e-7),
    "optimizer.moments_dtype": ("bfloat16", "bf16"),
    "annealing.power": (0.83, 0.83),
    "annealing.length": (0.9, 4500),
    "annealing.first_block_end": (1402, 701),
}
# Values that change the program in other ways.
SECOND = {
    "accumulation": 1,
    "criterion.ignore_void": True,
    "optimizer.undecayed_blocks": 2,
    "optimizer.frozen_blocks": 1,
    "annealing.enabled": False,
    "annealing.if_disabled": "masked",
}


def trace(config):
    """Returns the run, and the text of its step's program and constants."""
    run = setup.setup(config, devices=jax.devices()[:1])
    with run.train_batches(start_example=0) as batches:
        batch = place_batch(next(batches), run.mesh)
    program = run.train_step.trace(run.abstract_state(), batch).jaxpr
    return run, f"{program} {' '.join(str(np.asarray(c)) for c in program.consts)}"


def numbers_in(program):
    found = re.findall(r"(?<![\w.])\d[\d.]*(?:e-\d+)?\b", program)
    return np.array([float(number) for number in found])


def count_lookups(program):
    """Returns how often the program looks up pixels of an id map."""
    return len(re.findall(r":u8\[[\d,]*\] = gather", program))


def test_every_field_of_loss_optimizer_and_annealing_is_looked_for():
    named = {
        f"{group}.{field.name}"
        for group in ("criterion", "optimizer", "annealing")
        for field in dataclasses.fields(getattr(RunOptions(), group))
    }
    assert named <= {*FIRST, *SECOND}


def test_fields_of_loss_optimizer_and_annealing_reach_the_step(
    tiny_config, monkeypatch
):
    variants.VARIANTS["micro"] = variants.Variant(16, 3, 2, 32, 2)
    tiny_config.update_from_flattened_dict(COMMON)
    tiny_config.update_from_flattened_dict(
        {k: value for k, (value, _) in FIRST.items()}
    )
    first, program = trace(tiny_config)
    numbers = numbers_in(program)
    for name, (_, seen) in FIRST.items():
        is_word = isinstance(seen, str)
        assert seen in program if is_word else np.isclose(numbers, seen).any(), name

    # Frozen blocks need weights, which have no part in the program.
    tiny_config.init.checkpoint = "weights"
    monkeypatch.setattr(setup, "initialize", lambda *_, **__: first.initialization)
    tiny_config.update_from_flattened_dict(SECOND)
    second, other = trace(tiny_config)
    assert count_lookups(other) == 2 * count_lookups(program)  # once more for void
    # The last two of three blocks are not decayed, and nothing is annealed.
    for number in (0.77, 0.83, 4500):
        assert not np.isclose(numbers_in(other), number).any()
    assert "[1. 1.]" in other and "[1. 1.]" not in program
    moments = leaves_by_path(second.abstract_state().opt_state.mu)
    assert "vit/block_1/norm1/bias" in moments
    assert "vit/block_0/norm1/bias" not in moments
