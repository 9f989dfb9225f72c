"""Reads and writes our model as one safetensors file with a checksum.

The tensors are the parameters, in float32, by their paths ("vit/block_0/norm1/scale").
The metadata holds the text of model.json, and a checksum of parameters and text.
"""

import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from eomt_jax.weights.formats.files import Checkpoint, write_safetensors

SUFFIX = ".safetensors"
TEXT_KEY = "eomt_jax"
CHECKSUM_KEY = "crc32"


def text_of(checkpoint: Checkpoint) -> str | None:
    """Returns the text of model.json in an opened file; None if it is none of ours."""
    return checkpoint.metadata.get(TEXT_KEY)


def params_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the parameters in an opened file of ours, exactly as they were written.

    Raises:
      ValueError: the file or its metadata is not as it was written.
    """
    path, metadata = checkpoint.path, checkpoint.metadata
    _check_names(path, checkpoint.shapes)
    tensors = {name: checkpoint.read(name) for name in checkpoint.shapes}
    params = traverse_util.unflatten_dict(tensors, sep="/")
    check(path, params, metadata.get(CHECKSUM_KEY, "none"), metadata[TEXT_KEY])
    return params


def _check_names(path: epath.PathLike, names: Collection[str]) -> None:
    """Raises ValueError if a tensor's name is also the path to other tensors."""
    for name in names:
        parts = name.split("/")
        folders = ("/".join(parts[:i]) for i in range(1, len(parts)))
        taken = next((folder for folder in folders if folder in names), None)
        if taken is not None or "" in parts:
            other = f"beside {taken[:80]!r}" if taken else "with an empty part"
            raise ValueError(f"{path} has a tensor named {name[:200]!r} {other}.")


def write(path: epath.PathLike, text: str, params: dict[str, Any]) -> None:
    """Writes a file whole or not at all.

    Raises:
      ValueError: there is something at the path, its name doesn't end in .safetensors,
        or a parameter is not finite.
    """
    path = epath.Path(path).expanduser()
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}, by which it is recognised.")
    if path.exists():
        raise ValueError(f"{path} exists already; give another name.")
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {name: np.asarray(value, np.float32) for name, value in flat.items()}
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds values that are not finite.")
    metadata = {TEXT_KEY: text, CHECKSUM_KEY: checksum(params, text)}
    write_safetensors(path, tensors, metadata)


def checksum(params: dict[str, Any], text: str = "") -> str:
    """Returns the checksum of float32 parameters by path and a text, in hexadecimal.

    It detects damage, not changes on purpose.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    total = zlib.crc32(text.encode())
    for name, value in sorted(flat.items()):
        tensor = np.ascontiguousarray(value, np.float32)
        total = zlib.crc32(f"{name}{tensor.shape}".encode(), total)
        total = zlib.crc32(tensor.data, total)
    return f"{total:08x}"


def check(
    path: epath.PathLike, params: dict[str, Any], wanted: str, text: str = ""
) -> None:
    """Raises ValueError if the checksum isn't the one wanted."""
    found = checksum(params, text)
    if found != wanted:
        raise ValueError(
            f"{path} was written with the checksum {wanted} and now has {found}; it is "
            "damaged, or was changed by hand. Copy or convert it again."
        )
