"""Keeps compiled programs on disk, so that later processes need not compile them."""

import os
from typing import Any

import jax
from etils import epath

_config: Any = jax.config  # its stubs know no flags

DEFAULT_FOLDER = "~/.cache/eomt_jax"
"""Folder of the commands and of `Segmenter.from_checkpoint`; "" keeps no programs."""


def enable_compilation_cache(
    folder: epath.PathLike | None = None, *, min_seconds: float = 1.0
) -> None:
    """Makes JAX keep compiled programs in `folder`; "" changes nothing.

    Args:
      folder: a folder, which may be in a bucket. None means DEFAULT_FOLDER, and changes
        nothing if JAX has a folder already or this one can't be written.
      min_seconds: programs that compile in less time aren't kept.
    """
    if folder is None:
        if _config.jax_compilation_cache_dir or not _is_writable(DEFAULT_FOLDER):
            return
        folder = DEFAULT_FOLDER
    if folder:
        path = epath.Path(folder).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)


def _is_writable(folder: str) -> bool:
    local = os.path.expanduser(folder)
    try:
        os.makedirs(local, exist_ok=True)
    except OSError:
        return False
    return os.access(local, os.W_OK)
