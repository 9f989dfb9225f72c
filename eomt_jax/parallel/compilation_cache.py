"""Compiled programs kept on disk, so that a second process need not compile them."""

import jax
from etils import epath

DEFAULT_FOLDER = "~/.cache/eomt_jax"
"""Of the commands; the library itself keeps nothing unless asked to."""


def enable_compilation_cache(
    folder: epath.PathLike, *, min_seconds: float = 1.0
) -> None:
    """Keeps compiled programs in `folder` between processes; "" changes nothing.

    Args:
      folder: may be in a bucket.
      min_seconds: programs that compile faster than that aren't kept.
    """
    if folder:
        path = epath.Path(folder).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
