"""Memory that XLA frees is used again at the next call, without page faults."""

import os
import subprocess
import sys
import types

import pytest

from eomt_jax.parallel import host_memory

COUNT_PAGE_FAULTS = """
import resource
import statistics
import sys

import jax
import jax.numpy as jnp

from eomt_jax.parallel.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
# False: as programs with a host callback run, such as the training step.
jax.config.update("jax_cpu_enable_async_dispatch", sys.argv[2] == "async")

def use(x):
    return (x @ x.T) @ x  # 81 MB between the two.

use = jax.jit(use)
x = jnp.ones((4500, 8))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

# A piece that something small now lies in no longer suffices, nor one that the call
# before hasn't freed yet: another is taken, in up to a tenth of the calls, until there
# are enough of them.
print(statistics.median(faults() for _ in range(60)))
"""


def page_faults(freed: str, dispatch: str) -> float:
    """Returns page faults per call of a program with 81 MB, which are 20,000 pages."""
    found = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS, freed, dispatch],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return float(found.stdout)


@pytest.mark.parametrize("dispatch", ["async", "sync"])
def test_freed_memory_is_not_mapped_anew(dispatch):
    assert page_faults("keep", dispatch) < 2_000 < page_faults("return", dispatch)


@pytest.fixture
def c_library(monkeypatch):
    """Counts how often the C library is opened, and raises an error."""
    asked = []

    def refuse(name):
        asked.append(name)
        raise OSError

    monkeypatch.setattr(host_memory.ctypes, "CDLL", refuse)
    return asked


@pytest.mark.parametrize("platforms", ["cuda", "tpu", "cuda,cpu"])
def test_with_an_accelerator_asked_for_nothing_changes(
    monkeypatch, c_library, platforms
):
    monkeypatch.setattr(
        host_memory.jax, "config", types.SimpleNamespace(jax_platforms=platforms)
    )
    host_memory.keep_freed_memory()
    assert not c_library


@pytest.mark.parametrize("library", ["jax_plugins", "libtpu", None])
def test_with_an_accelerators_library_nothing_changes(monkeypatch, c_library, library):
    monkeypatch.setattr(
        host_memory.jax, "config", types.SimpleNamespace(jax_platforms=None)
    )
    monkeypatch.setattr(
        host_memory.importlib.util, "find_spec", lambda module: module == library
    )
    monkeypatch.setattr(host_memory.metadata, "entry_points", lambda group: ())
    host_memory.keep_freed_memory()
    assert bool(c_library) == (library is None)
