"""Sets how the allocator handles freed memory in a process that computes on a CPU."""

import ctypes
import importlib.util
from importlib import metadata

import jax

# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Makes a process that computes on a CPU keep the memory that it frees.

    XLA allocates the temporary memory of a program, and of each large matrix product,
    in one block and frees it afterwards. By default glibc returns blocks of that size
    to the system, which then maps and clears every page again. That takes a quarter of
    the time of a prediction, a third of that of a training step. By default each thread
    also has a heap of its own, which can't keep more than 64 MB; here all threads share
    one.

    Commands call it, since it changes the whole process. Call it before anything that
    starts JAX's threads, which keep the heap that they begin with. So it can't ask JAX
    for the platform, and looks at the installed packages and JAX_PLATFORMS instead.
    It changes nothing if JAX can use an accelerator, or with another C library than
    glibc.
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
    """Returns whether JAX will compute on a CPU, without starting its backend."""
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms:
        return platforms == "cpu"
    # JAX looks for libraries of accelerators in these modules.
    modules = ("jax_plugins", "libtpu")
    return not (
        any(importlib.util.find_spec(module) for module in modules)
        or metadata.entry_points(group="jax_plugins")
    )
