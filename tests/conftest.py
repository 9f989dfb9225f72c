"""Sets up eight fake CPU devices, quick compiling and checked shapes."""

import os

from tests import type_checks
from tests.processes import xla_flags

# This must be set before jax is imported. NPROC is the size of XLA's CPU thread pool:
# with as few threads as a small machine has cores, collectives over eight devices
# deadlock.
os.environ.setdefault("NPROC", "32")
# Compiling takes most of the time here and running very little. So programs are not
# optimized, and a training step compiles four times as fast. Tests that need optimized
# programs ask for them (`optimized_programs`, tests/quickstart).
os.environ.setdefault("XLA_FLAGS", xla_flags(8))
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.struct
from jaxtyping import install_import_hook

_struct_dataclass = flax.struct.dataclass


def _pytree_dataclass(cls=None, **kwargs):
    """Makes an unchecked dataclass, since JAX also fills fields with placeholders."""
    if cls is None:
        return lambda cls: _pytree_dataclass(cls, **kwargs)
    cls = _struct_dataclass(cls, **kwargs)
    cls.__no_type_check__ = True
    return cls


# Arguments and results of functions are checked against their shapes in every test.
flax.struct.dataclass = _pytree_dataclass
install_import_hook("eomt_jax", f"{type_checks.__name__}.check")

import jax
import pytest

from eomt_jax.parallel import compilation_cache

# Tests leave nothing in the home folder.
compilation_cache.DEFAULT_FOLDER = ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int | None:
    """Returns 0 workers for a single file, whose tests would all go to one worker."""
    files = {argument.split("::")[0] for argument in config.args}
    return 0 if len(files) == 1 and files.pop().endswith(".py") else None


@pytest.fixture(scope="module")
def optimized_programs():
    """Compiles optimized programs, as for users, for comparisons to the last digits.

    In programs that are not optimized, logits that are computed twice may differ in the
    last bit, and the loss may then choose a point too few.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def rng() -> jax.Array:
    return jax.random.key(0)
