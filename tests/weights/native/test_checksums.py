import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.weights.native import checksums


def test_sum_of_bits_times_odd_positions_by_hand():
    tree = {"a": {"b": np.array([[3, 5], [7, 2**31]], np.uint32)}}
    # 3·1 + 5·3 + 7·5 + 2³¹·7, and 2³¹·7 = 2³¹ modulo 2³².
    assert checksums.checksums(tree) == {"a/b": 53 + 2**31}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (24,), (8, 3, 5)])
def test_host_and_device_agree(dtype, shape):
    values = 100 * np.random.default_rng(0).normal(size=shape)
    array = jnp.asarray(values > 0 if dtype == "bool" else values).astype(dtype)
    assert checksums.checksums({"x": array}) == checksums.checksums(
        {"x": np.asarray(array)}
    )


def test_host_arrays_are_summed_in_chunks(monkeypatch):
    tree = {"x": np.arange(100, dtype=np.float32)}
    whole = checksums.checksums(tree)
    monkeypatch.setattr(checksums, "_CHUNK", 7)
    assert checksums.checksums(tree) == whole


def test_split_over_a_mesh_it_is_the_same():
    mesh = create_mesh(MeshOptions(data=2, fsdp=2, tensor=2), devices=jax.devices()[:8])
    array = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor"))
    placed = jax.device_put(array, split)
    assert checksums.checksums({"x": placed}) == checksums.checksums({"x": array})


@pytest.mark.parametrize("index", [0, 1, 63])
@pytest.mark.parametrize("bit", [0, 17, 31])
def test_every_flipped_bit_is_found(index, bit):
    array = np.random.default_rng(0).normal(size=64).astype(np.float32)
    wanted = checksums.checksums({"x": array, "y": array})
    damaged = array.copy()
    damaged.view(np.uint32)[index] ^= np.uint32(1 << bit)
    assert checksums.changed({"x": array, "y": damaged}, wanted) == ["y"]
    assert checksums.changed({"x": array, "y": array}, wanted) == []


def test_swapped_elements_and_unknown_arrays_are_changes():
    array = np.array([1, 2, 3], np.float32)
    wanted = checksums.checksums({"x": array})
    assert checksums.changed({"x": array[::-1], "z": array}, wanted) == ["x", "z"]
