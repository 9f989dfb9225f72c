"""Reads named tensors as our parameter tree."""

import concurrent.futures
from typing import Any

import numpy as np
from flax import traverse_util

from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.foreign.name_maps import Naming, Table
from eomt_jax.weights.formats.files import Checkpoint

NUM_THREADS = 4


def read_params(
    checkpoint: Checkpoint, naming: Naming, table: Table, architecture: Architecture
) -> dict[str, Any]:
    """Returns our parameters in float32, at the stored sizes.

    Parameters of another layout are views of what was read, so that each number is in
    memory once. The position embedding of the class token, if the checkpoint has one,
    is added to the class token.

    Raises:
      ValueError: a tensor is not finite, not of floats, or cannot be read.
    """

    def read(row: tuple[str, tuple[str, ...]]) -> tuple[str, np.ndarray]:
        path, names = row
        parts = [checkpoint.read(name) for name in names]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return path, naming.layout(path).to_ours(whole, architecture)

    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        flat = dict(pool.map(read, table.items()))
    params = traverse_util.unflatten_dict(flat, sep="/")
    vit = params["vit"] if naming.heads else params
    if "position_embedding" in vit:
        positions = vit["position_embedding"]
        if architecture.class_position:
            vit["class_token"] = vit["class_token"] + positions[:1]
            positions = positions[1:]
        vit["position_embedding"] = positions.reshape(*architecture.grid_size, -1)
    return params
