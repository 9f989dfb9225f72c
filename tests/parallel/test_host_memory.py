"""Memory that XLA frees is there again at the next call, without the kernel's help."""

import os
import subprocess
import sys

from eomt_jax.parallel import host_memory

COUNT_PAGE_FAULTS = """
import resource
import sys

import jax
import jax.numpy as jnp

from eomt_jax.parallel.host_memory import keep_freed_memory

# As programs with a host callback run, such as the training step.
jax.config.update("jax_cpu_enable_async_dispatch", False)
if sys.argv[1] == "keep":
    keep_freed_memory()

def use(x):
    return (x @ x.T) @ x  # 81 MB between the two.

use = jax.jit(use)
x = jnp.ones((4500, 8))
for _ in range(2):
    use(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    """Of one call of a program with 81 MB of temporary memory: 20,000 pages."""
    found = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS, how],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return int(found.stdout)


def test_freed_memory_is_not_mapped_anew():
    assert page_faults("keep") < 2_000 < page_faults("return")


def test_with_an_accelerator_nothing_changes(monkeypatch):
    def refuse(name):
        raise AssertionError("the C library was asked for")

    monkeypatch.setattr(host_memory.jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(host_memory.ctypes, "CDLL", refuse)
    host_memory.keep_freed_memory()
