import jax
import numpy as np
import pytest

from eomt_jax.parallel.batch import (
    local_rows,
    owned_rows,
    place_batch,
    prefetch,
    split_batch,
)
from eomt_jax.parallel.mesh import MeshOptions, batch_sharding, create_mesh, replicated


@pytest.fixture(scope="module")
def mesh():
    return create_mesh(MeshOptions(2, 4))


def host_batch(step=0):
    rows = np.arange(8, dtype=np.int32) + 8 * step
    return {"image": np.tile(rows.astype(np.uint8)[:, None], (1, 3)), "index": rows}


def test_place_batch_keeps_values_and_splits_rows(mesh):
    placed = place_batch(host_batch(), mesh)
    assert placed["index"].sharding == batch_sharding(mesh)
    assert placed["image"].sharding.shard_shape((8, 3)) == (1, 3)
    jax.tree.map(np.testing.assert_array_equal, placed, host_batch())


def test_local_rows_are_what_was_placed(mesh):
    rows = local_rows(place_batch(host_batch(), mesh))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(rows))
    jax.tree.map(np.testing.assert_array_equal, rows, host_batch())


def test_owned_rows_are_each_row_once():
    rows = owned_rows(place_batch(host_batch(), create_mesh(MeshOptions(2, 2, 2))))
    jax.tree.map(np.testing.assert_array_equal, rows, host_batch())


def test_owned_rows_of_leaves_split_otherwise_raise(monkeypatch):
    """The leaf has the shards of the first of two processes of four devices."""
    mesh = create_mesh(MeshOptions(2, 4))
    tree = place_batch(host_batch(), mesh)
    tree["score"] = jax.device_put(np.zeros(8), replicated(mesh))
    shards = type(tree["score"]).addressable_shards.__get__
    monkeypatch.setattr(
        type(tree["score"]),
        "addressable_shards",
        property(lambda array: shards(array)[:4]),
    )
    assert len(local_rows(tree)["index"]) == 4
    with pytest.raises(ValueError, match="split in different ways"):
        owned_rows(tree)


def test_split_batch_gives_each_device_parts_of_its_own_rows():
    mesh = create_mesh(MeshOptions(2, 2, 2))
    batch = place_batch({"index": np.arange(16), "none": None}, mesh)
    parts = jax.jit(lambda batch: split_batch(batch, 2, mesh))(batch)["index"]
    # There are four shards of four rows; a part has two rows of each.
    assert parts.tolist() == [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]
    held = {shard.device: np.asarray(shard.data) for shard in parts.addressable_shards}
    for shard in batch["index"].addressable_shards:
        assert sorted(held[shard.device].ravel()) == sorted(np.asarray(shard.data))


def test_place_batch_that_does_not_divide_raises(mesh):
    batch = jax.tree.map(lambda leaf: leaf[:6], host_batch())
    with pytest.raises(ValueError, match="batch_size = 6 .*mesh.data × mesh.fsdp"):
        place_batch(batch, mesh)


def test_place_batch_with_uneven_leaves_raises(mesh):
    with pytest.raises(ValueError, match="differ in their number of rows"):
        place_batch({**host_batch(), "index": np.arange(4)}, mesh)


class Source:
    """Yields a few batches and counts them; it can be closed like the loader."""

    def __init__(self, length):
        self.length, self.taken, self.closed = length, 0, False

    def __iter__(self):
        for step in range(self.length):
            self.taken += 1
            yield host_batch(step)

    def close(self):
        self.closed = True


@pytest.mark.parametrize("length", [0, 1, 5])
def test_prefetch_yields_every_batch_in_order(mesh, length):
    source = Source(length)
    firsts = [int(batch["index"][0]) for batch in prefetch(source, mesh)]
    assert firsts == [8 * step for step in range(length)]
    assert source.closed


def test_prefetch_runs_ahead_by_its_depth_and_closes_its_source(mesh):
    source = Source(10)
    batches = prefetch(source, mesh, depth=2)
    next(batches)
    assert source.taken == 3
    next(batches)
    assert source.taken == 4
    batches.close()
    assert source.closed and source.taken == 4
