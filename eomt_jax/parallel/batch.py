"""Places batches of the host on the mesh."""

import collections
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eomt_jax.parallel.mesh import (
    BATCH_AXES,
    batch_sharding,
    check_batch_size,
    num_batch_shards,
    reader_of,
)

Tree = TypeVar("Tree")


def place_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Makes global arrays, split over the mesh, from this process's rows.

    Args:
      batch: a tree of NumPy arrays [rows, …], with the same number of rows in each
        process, and the same rows in processes that are one `parallel.mesh.Reader`.
      mesh: from `parallel.mesh.create_mesh`.
    """
    rows = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch)}
    if len(rows) != 1:
        raise ValueError(f"a batch's leaves differ in their number of rows: {rows}")
    batch_size = rows.pop() * reader_of(mesh).count
    check_batch_size(batch_size, mesh)
    sharding = batch_sharding(mesh)

    def place(leaf: np.ndarray) -> jax.Array:
        shape = (batch_size, *np.shape(leaf)[1:])
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(place, batch)


def split_batch(batch: Tree, num_parts: int, mesh: Mesh) -> Tree:
    """Reshapes leaves [B, …] to [num_parts, B / num_parts, …], for a scan under jit.

    A part takes the same number of neighbouring rows from each device, so that no row
    moves to another device.

    Args:
      batch: placed on the mesh as by `place_batch`.
      num_parts: a divisor of the number of rows of each device.
      mesh: from `parallel.mesh.create_mesh`.
    """
    shards = num_batch_shards(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def split(leaf: jax.Array) -> jax.Array:
        rows, *shape = leaf.shape
        leaf = leaf.reshape(shards, num_parts, rows // shards // num_parts, *shape)
        leaf = leaf.swapaxes(0, 1).reshape(num_parts, rows // num_parts, *shape)
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return jax.tree.map(split, batch)


def local_rows(tree: Any) -> Any:
    """Returns this process's rows as NumPy arrays: the inverse of `place_batch`."""
    return jax.tree.map(lambda array: _rows(array.addressable_shards, array), tree)


def owned_rows(tree: Any) -> Any:
    """Returns this process's rows as NumPy arrays, each row in one process alone.

    If several processes hold a row, the one whose device comes first in the mesh
    returns it; a process may have no row at all.

    Raises:
      ValueError: not all leaves are split as the batch is.
    """

    def rows(array: jax.Array) -> np.ndarray:
        owned = [shard for shard in array.addressable_shards if shard.replica_id == 0]
        return _rows(owned, array)

    tree = jax.tree.map(rows, tree)
    counts = {len(leaf) for leaf in jax.tree.leaves(tree)}
    if len(counts) > 1:
        raise ValueError(f"leaves are split in different ways, into {counts} rows")
    return tree


def _rows(shards: Iterable[jax.Shard], array: jax.Array) -> np.ndarray:
    parts = {shard.index[0].start or 0: shard for shard in shards}
    none = np.zeros((0, *array.shape[1:]), array.dtype)
    return np.concatenate(
        [none, *(np.asarray(parts[start].data) for start in sorted(parts))]
    )


def prefetch(
    batches: Iterable[Tree], mesh: Mesh, *, depth: int = 2
) -> Generator[Tree, None, None]:
    """Places batches ahead of their use, so that copies run while the device computes.

    Closing the generator closes `batches` if that has a `close`.

    Args:
      batches: host batches, see `place_batch`.
      mesh: from `parallel.mesh.create_mesh`.
      depth: batches on the device at the same time, without the one in use.
    """
    queue: collections.deque[Tree] = collections.deque()
    try:
        for batch in batches:
            queue.append(place_batch(batch, mesh))
            if len(queue) > depth:
                yield queue.popleft()
        while queue:
            yield queue.popleft()
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()
