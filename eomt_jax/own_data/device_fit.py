"""Describes the devices at hand, and compiles a step to see whether it fits them."""

import os

import jax
from ml_collections import ConfigDict

from eomt_jax.own_data.choices import Machine
from eomt_jax.parallel.batch import place_batch
from eomt_jax.training.loop import compile_step
from eomt_jax.training.reporting.logging import say
from eomt_jax.training.reporting.step_memory import describe_memory, fits
from eomt_jax.training.setup import setup

_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


def this_machine() -> Machine:
    """Returns the devices that JAX sees, and the cores that this process may use."""
    devices = jax.devices()
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Machine(devices[0].platform, devices[0].device_kind, len(devices), cores)


def fits_device(config: ConfigDict) -> bool:
    """Compiles a recipe's training step, and returns whether the memory is enough."""
    run = setup(config)
    with run.train_batches(start_example=0) as batches:
        batch = place_batch(next(batches), run.mesh)
    try:
        compiled = compile_step(run.train_step, run.abstract_state(), batch)
    except jax.errors.JaxRuntimeError as error:
        if _OUT_OF_MEMORY not in str(error):
            raise
        say("This step does not fit the device's memory.")
        return False
    analysis = compiled.memory_analysis()
    say(describe_memory(run, analysis).splitlines()[-1])
    return fits(run, analysis)
