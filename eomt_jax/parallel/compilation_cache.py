"""Keeps compiled programs on disk, so that later processes need not compile them."""

import jax
from etils import epath

DEFAULT_FOLDER = "~/.cache/eomt_jax"
"""Folder that the commands use; the library itself keeps no programs by default."""


def enable_compilation_cache(
    folder: epath.PathLike, *, min_seconds: float = 1.0
) -> None:
    """Makes JAX keep compiled programs in `folder`; "" changes nothing.

    Args:
      folder: a folder, which may be in a bucket.
      min_seconds: programs that compile in less time aren't kept.
    """
    if folder:
        path = epath.Path(folder).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
