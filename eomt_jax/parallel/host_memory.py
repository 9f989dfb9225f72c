"""What the allocator of a process that computes on a CPU does with freed memory."""

import ctypes
import importlib.util
from importlib import metadata

import jax

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has a process that computes on a CPU keep the memory it frees.

    XLA takes the temporary memory of a program, and of each large matrix product, in
    one piece and frees it afterwards. By default glibc hands pieces of that size back
    to the system, which then maps and clears every page anew: a quarter of the time of
    a prediction, a third of that of a training step. And it gives each thread a heap of
    its own, which can't keep more than 64 MB; so all threads get the same heap.

    For commands, since these are settings of the whole process. Call it before
    anything that starts JAX's threads, which keep the heap that they begin with; so
    whether JAX will compute on a CPU is told by what is installed and by
    JAX_PLATFORMS. Nothing changes where JAX can use an accelerator, or with another C
    library than glibc.
    """
    if not _computes_on_cpu():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


def _computes_on_cpu() -> bool:
    """Told without starting JAX's backend."""
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms:
        return platforms == "cpu"
    # Where JAX looks for libraries of accelerators.
    modules = ("jax_plugins", "libtpu")
    return not (
        any(importlib.util.find_spec(module) for module in modules)
        or metadata.entry_points(group="jax_plugins")
    )
