"""A second process reads the training step from the folder of compiled programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from eomt_jax.losses.matcher import MATCHERS
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.training.setup import setup

JAX_VERSION = tuple(map(int, jax.__version__.split(".")[:2]))


@pytest.mark.parametrize("matcher", MATCHERS)
def test_training_step_is_compiled_once(tiny_config, cache, matcher):
    """jax 0.10 keeps no program that calls the host; later versions do."""
    tiny_config.criterion.matcher = matcher
    folder = cache / matcher
    compilation_cache.reset_cache()  # JAX opens one folder a process.
    enable_compilation_cache(folder, min_seconds=0.0)
    losses = []
    for _ in range(2):
        # Only the folder is left of the first process.
        jax.clear_caches()
        run = setup(tiny_config, devices=jax.devices()[:1])
        with run.train_batches(start_example=0) as batches:
            batch = place_batch(next(batches), run.mesh)
        state, metrics = run.train_step(run.create_state(), batch)
        losses.append(metrics["loss"])
        assert jnp.isfinite(losses[-1]) and state.step == 1
    np.testing.assert_array_equal(*losses)
    kept = len(list(folder.glob("jit_train_step-*-cache")))
    assert kept == (matcher == "device" or JAX_VERSION >= (0, 11))
