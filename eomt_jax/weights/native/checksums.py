"""Checksums of arrays, which don't depend on how an array is split over devices.

A checksum is Σ bits[i] · (2i + 1) modulo 2³², over the elements in the order of NumPy.
Integer sums don't depend on their order. Odd factors have inverses, so one changed
element always changes the sum; other damage is missed in one case of 2³².
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from eomt_jax.trees import leaves_by_path

# A host array is summed by so many elements at a time, which saves memory.
_CHUNK = 1 << 22


def checksums(tree: Any) -> dict[str, int]:
    """Returns the checksum of each array by its path, as "vit/block_0/norm1/scale".

    Args:
      tree: a tree of jax.Arrays, which are summed on their devices (all processes that
        hold some of them must call this), or of NumPy arrays; elements have 1, 2 or 4
        bytes.
    """
    sums = {}
    for name, leaf in leaves_by_path(tree).items():
        sums[name] = _on_device(leaf) if isinstance(leaf, jax.Array) else _on_host(leaf)
    return {name: int(value) for name, value in jax.device_get(sums).items()}


def changed(tree: Any, wanted: Mapping[str, int]) -> list[str]:
    """Returns the paths of arrays whose checksum isn't the one wanted, or unknown."""
    found = checksums(tree)
    return sorted(name for name in found if found[name] != wanted.get(name))


def _on_device(array: jax.Array) -> jax.Array:
    # There is a small program for each shape and layout, since one for a whole state
    # would be large. Its result is replicated, so that each process can read it.
    sharding = array.sharding
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return _sum_program(sharding)(array)


@functools.cache
def _sum_program(sharding: Any) -> Any:
    def weighted_sum(array: jax.Array) -> jax.Array:
        if array.dtype == jnp.bool_:
            array = array.astype(jnp.uint8)
        unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
        position = jnp.zeros(array.shape, jnp.uint32)
        for axis in range(array.ndim):
            # The stride is taken modulo 2³², like the position.
            stride = np.uint32(math.prod(array.shape[axis + 1 :]) % 2**32)
            position += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * stride
        return jnp.sum(bits * (2 * position + 1), dtype=jnp.uint32)

    return jax.jit(weighted_sum, out_shardings=sharding)


def _on_host(array: np.ndarray) -> int:
    flat = np.ascontiguousarray(array).reshape(-1)
    flat = flat.view(f"uint{8 * flat.itemsize}")
    total = 0
    for start in range(0, flat.size, _CHUNK):
        bits = flat[start : start + _CHUNK].astype(np.uint32)
        positions = np.arange(start, start + bits.size, dtype=np.uint64)
        weights = (2 * positions + 1).astype(np.uint32)
        total += int(np.sum(bits * weights, dtype=np.uint32))
    return total % 2**32
