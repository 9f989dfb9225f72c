"""What the allocator of a process that computes on a CPU does with freed memory."""

import ctypes

import jax

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Has a process that computes on a CPU keep the memory it frees.

    XLA takes the temporary memory of a program in one piece at each call and frees it
    afterwards. By default glibc hands pieces of that size back to the system, which
    then maps and clears every page anew: a third of the time of a training step, which
    runs in the thread that calls it, as all programs with a host callback do. (Others run
    in XLA's threads, whose arenas map what is larger than 64 MB in any case.)

    For commands, since it is a setting of the whole process. Nothing changes where JAX
    computes on an accelerator, or with another C library than glibc.
    """
    if jax.default_backend() != "cpu":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
