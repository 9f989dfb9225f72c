import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from eomt_jax.parallel.mesh import (
    MeshOptions,
    Reader,
    batch_sharding,
    check_accumulation,
    check_batch_size,
    create_mesh,
    held_shards,
    num_batch_shards,
    reader_of,
)


def test_create_mesh_by_default_splits_data_over_all_devices():
    mesh = create_mesh()
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_create_mesh_infers_data_from_the_other_axes():
    mesh = create_mesh(MeshOptions(fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert num_batch_shards(mesh) == 4


def test_create_mesh_takes_some_devices_only_when_told():
    mesh = create_mesh(MeshOptions(2), devices=jax.devices()[4:6])
    assert list(mesh.devices.flat) == jax.devices()[4:6]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((2, 2, 1), r"mesh.data = 2, mesh.fsdp = 2.* wants 4 devices, .* sees 8"),
        ((-1, 3, 1), r"mesh.fsdp × mesh.tensor = 3 does not divide the 8 devices"),
        ((-1, 0, 1), r"mesh.fsdp = 0.* at least 1"),
        ((-2, 1, 1), r"mesh.data = -2.* at least 1"),
    ],
)
def test_create_mesh_that_does_not_fit_raises(axes, message):
    with pytest.raises(ValueError, match=message):
        create_mesh(MeshOptions(*axes))


def test_check_batch_size_names_the_fields_to_change():
    mesh = create_mesh(MeshOptions(2, 2, 2))
    check_batch_size(8, mesh)
    with pytest.raises(ValueError, match=r"eval.batch_size = 6 .* multiple of 4"):
        check_batch_size(6, mesh, field="eval.batch_size")
    with pytest.raises(ValueError, match="multiple of 4"):
        check_batch_size(0, mesh)


def test_batch_sharding_gives_each_batch_shard_its_rows():
    mesh = create_mesh(MeshOptions(2, 2, 2))
    placed = jax.device_put(np.arange(8), batch_sharding(mesh))
    rows = {
        shard.device.id: list(np.asarray(shard.data))
        for shard in placed.addressable_shards
    }
    # The devices of a tensor group hold the same rows.
    for position, device in np.ndenumerate(mesh.devices):
        first = 2 * (2 * position[0] + position[1])
        assert rows[device.id] == [first, first + 1]


@pytest.mark.parametrize("accumulation", [0, 3, 8])
def test_check_accumulation_counts_the_rows_of_a_device(accumulation):
    mesh = create_mesh(MeshOptions(2, 2, 2))
    check_accumulation(4, 16, mesh)
    with pytest.raises(ValueError, match=rf"= {accumulation} .* the 4 images"):
        check_accumulation(accumulation, 16, mesh)


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a process, for tests without such a process."""

    process_index: int
    id: int


def mesh_of(processes):
    """Returns a mesh [data, fsdp, tensor] with devices of these processes."""
    devices = np.empty(np.shape(processes), object)
    for number, (at, process) in enumerate(np.ndenumerate(processes)):
        devices[at] = Device(int(process), number)
    return Mesh(devices, ("data", "fsdp", "tensor"))


def readers(mesh):
    """Returns (reader, shards) of each process."""
    return {
        process: (reader_of(mesh, process_index=process).index, shards)
        for process, shards in sorted(held_shards(mesh).items())
    }


def test_each_process_with_rows_of_its_own_is_a_reader():
    mesh = mesh_of([[[0, 0], [0, 0]], [[1, 1], [1, 1]]])
    assert readers(mesh) == {0: (0, (0, 1)), 1: (1, (2, 3))}
    assert reader_of(mesh, process_index=1) == Reader(1, 2)


def test_processes_that_hold_the_same_rows_are_one_reader():
    one_task_for_each_gpu = mesh_of([[[0, 1]], [[2, 3]]])
    assert readers(one_task_for_each_gpu) == {
        0: (0, (0,)),
        1: (0, (0,)),
        2: (1, (1,)),
        3: (1, (1,)),
    }
    # MeshOptions(tensor=4) on a TPU v5e:4x4 puts each shard on halves of two machines.
    v5e_4x4 = mesh_of([[[0, 0, 1, 1]]] * 2 + [[[2, 2, 3, 3]]] * 2)
    assert readers(v5e_4x4) == {
        0: (0, (0, 1)),
        1: (0, (0, 1)),
        2: (1, (2, 3)),
        3: (1, (2, 3)),
    }
    whole = mesh_of([[[0, 1, 2, 3]]])
    assert {reader_of(whole, process_index=i) for i in range(4)} == {Reader(0, 1)}


def test_readers_are_numbered_by_their_first_shard():
    # create_mesh() lays this ring through a TPU v5e:4x4.
    ring = mesh_of(
        np.reshape([0, 0, 1, 1, 1, 1, 3, 3, 3, 3, 2, 2, 2, 2, 0, 0], (16, 1, 1))
    )
    assert [reader_of(ring, process_index=i).index for i in range(4)] == [0, 1, 3, 2]


@pytest.mark.parametrize(
    "processes",
    [
        # Both of two processes of three devices hold a part of the second shard.
        [[[0, 0]], [[0, 1]], [[1, 1]]],
        # The first process has three devices, the second one.
        [[[0]], [[0]], [[0]], [[1]]],
    ],
)
def test_processes_that_share_rows_in_part_raise(processes):
    message = r"mesh.tensor = [12] over 2 processes of (3|1 or 3) devices: .* multiple"
    with pytest.raises(ValueError, match=message):
        held_shards(mesh_of(processes))


def test_process_without_a_device_in_the_mesh_reads_nothing():
    with pytest.raises(ValueError, match="process 2 has no device"):
        reader_of(mesh_of([[[0, 1]]]), process_index=2)
