import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from eomt_jax.parallel.mesh import (
    batch_sharding,
    check_accumulation,
    check_batch_size,
    create_mesh,
    num_batch_shards,
)


def test_create_mesh_by_default_splits_data_over_all_devices():
    mesh = create_mesh()
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_create_mesh_infers_data_from_the_other_axes():
    mesh = create_mesh(fsdp=2, tensor=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert num_batch_shards(mesh) == 4


def test_create_mesh_takes_some_devices_only_when_told():
    mesh = create_mesh(2, devices=jax.devices()[4:6])
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
        create_mesh(*axes)


def test_check_batch_size_names_the_fields_to_change():
    mesh = create_mesh(2, 2, 2)
    check_batch_size(8, mesh)
    with pytest.raises(ValueError, match=r"eval.batch_size = 6 .* multiple of 4"):
        check_batch_size(6, mesh, field="eval.batch_size")
    with pytest.raises(ValueError, match="multiple of 4"):
        check_batch_size(0, mesh)


def test_batch_sharding_gives_each_batch_shard_its_rows():
    mesh = create_mesh(2, 2, 2)
    placed = jax.device_put(np.arange(8), batch_sharding(mesh))
    rows = {
        shard.device.id: list(np.asarray(shard.data))
        for shard in placed.addressable_shards
    }
    # Devices of one tensor group hold the same rows.
    for position, device in np.ndenumerate(mesh.devices):
        first = 2 * (2 * position[0] + position[1])
        assert rows[device.id] == [first, first + 1]


@pytest.mark.parametrize("accumulation", [0, 3, 8])
def test_check_accumulation_counts_the_rows_of_a_device(accumulation):
    mesh = create_mesh(2, 2, 2)
    check_accumulation(4, 16, mesh)
    with pytest.raises(ValueError, match=rf"= {accumulation} .* the 4 images"):
        check_accumulation(accumulation, 16, mesh)
