"""Eight fake CPU devices, quick compiling and checked shapes."""

import importlib.metadata
import os

# Before jax is imported. NPROC sizes XLA's CPU thread pool: with as few threads as a
# small machine has cores, collectives over eight devices wait for one another forever.
os.environ.setdefault("NPROC", "32")
# Compiling takes most of the time here and running next to none, so programs are left
# as they come: a training step compiles four times as fast. What needs optimized ones
# asks for them (`optimized_programs`, tests/quickstart).
_flags = "--xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # A flag that later ones don't know, and XLA ends the process over an unknown one.
    _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _flags)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.struct
from jaxtyping import install_import_hook

_struct_dataclass = flax.struct.dataclass


def _pytree_dataclass(cls=None, **kwargs):
    """JAX rebuilds pytrees with shardings and placeholders for leaves: unchecked."""
    if cls is None:
        return lambda cls: _pytree_dataclass(cls, **kwargs)
    cls = _struct_dataclass(cls, **kwargs)
    cls.__no_type_check__ = True
    return cls


# Function arguments and results are checked against their shapes in every test.
flax.struct.dataclass = _pytree_dataclass
install_import_hook("eomt_jax", "beartype.beartype")

import jax
import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int | None:
    """No workers for a single file: all its tests would go to one of them."""
    files = {argument.split("::")[0] for argument in config.args}
    return 0 if len(files) == 1 and files.pop().endswith(".py") else None


@pytest.fixture(scope="module")
def optimized_programs():
    """Programs as users run them, for comparisons to the last digits.

    Without optimizing, logits that are computed twice may differ in the last bit, and the
    loss then chooses a point less than it should.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def rng() -> jax.Array:
    return jax.random.key(0)
