"""A model of ours in one safetensors file, with a checksum.

The tensors are the parameters, in float32, by their paths ("vit/block_0/norm1/scale").
The metadata holds what a folder of ours has in model.json, and a checksum of it all.
"""

import zlib
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from eomt_jax.weights import safetensors_file
from eomt_jax.weights.files import open_checkpoint

SUFFIX = ".safetensors"
TEXT_KEY = "eomt_jax"
CHECKSUM_KEY = "crc32"


def read_text(path: epath.PathLike) -> str | None:
    """What the file says of its model; None for what is no readable file of ours."""
    path = epath.Path(path).expanduser()
    if path.suffix != SUFFIX:
        return None
    try:
        return safetensors_file.read_header(path).metadata.get(TEXT_KEY)
    except (ValueError, OSError):
        return None


def read_params(path: epath.PathLike) -> dict[str, Any]:
    """The parameters, exactly as they were written.

    Raises:
      ValueError: the file, its metadata included, is not as it was written.
    """
    with open_checkpoint(path) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.shapes}
        metadata = checkpoint.metadata
    wanted = metadata.get(CHECKSUM_KEY)
    found = _checksum(metadata[TEXT_KEY], tensors)
    if found != wanted:
        raise ValueError(
            f"{path} was written with the checksum {wanted} and now has {found}; it is "
            "damaged, or was changed by hand. Copy or convert it again."
        )
    return traverse_util.unflatten_dict(tensors, sep="/")


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
    metadata = {TEXT_KEY: text, CHECKSUM_KEY: _checksum(text, tensors)}
    safetensors_file.write(path, tensors, metadata)


def _checksum(text: str, tensors: dict[str, np.ndarray]) -> str:
    """It finds a damaged file, not one that someone changed on purpose."""
    total = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name}{tensor.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(tensor), total)
    return f"{total:08x}"
