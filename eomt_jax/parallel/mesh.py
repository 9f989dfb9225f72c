"""Creates the mesh of a run, for any number of devices."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eomt_jax.options import Whole, option

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # Both split the batch; fsdp splits the state as well.


_DEVICES = Whole(1, 2**20)


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """Devices along each axis of the mesh."""

    data: int = option(
        -1,
        Whole(1, 2**20, special=-1),
        "This many copies of the model each take their own part of the batch; -1 takes "
        "as many as the devices allow.",
    )
    fsdp: int = option(
        1,
        _DEVICES,
        "This many devices share one copy's parameters and optimizer state, and split "
        "the batch further.",
    )
    tensor: int = option(
        1,
        _DEVICES,
        "This many devices share one copy's attention heads and feed-forward width.",
    )


@dataclasses.dataclass(frozen=True)
class Reader:
    """The rows of the global batches that a process reads.

    Processes whose devices hold the same rows, as when `tensor` spans processes, are
    one reader, and each of them reads all its rows.

    Attributes:
      index: which of the batch's equal parts it reads, 0 to count − 1.
      count: number of parts; that of processes if none share rows.
    """

    index: int
    count: int


def create_mesh(
    options: MeshOptions = MeshOptions(), *, devices: Sequence[Any] | None = None
) -> Mesh:
    """Returns a mesh of all devices with the axes `data`, `fsdp` and `tensor`.

    Args:
      options: how many devices lie along each axis.
      devices: the devices; by default all of jax.devices().

    Raises:
      ValueError: the axes don't fit the devices, or processes would share some rows of
        the batch and not others.
    """
    data, fsdp, tensor = options.data, options.fsdp, options.tensor
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    found = f"mesh.data = {data}, mesh.fsdp = {fsdp}, mesh.tensor = {tensor}"
    if min(fsdp, tensor) < 1 or (data < 1 and data != -1):
        raise ValueError(f"{found}: each must be at least 1; only mesh.data may be -1")
    if data == -1:
        if count % (fsdp * tensor):
            raise ValueError(
                f"{found}: mesh.fsdp × mesh.tensor = {fsdp * tensor} does not divide "
                f"the {count} devices that JAX sees"
            )
        data = count // (fsdp * tensor)
    if data * fsdp * tensor != count:
        raise ValueError(
            f"{found} wants {data * fsdp * tensor} devices, but JAX sees {count}; set "
            "mesh.data = -1 to take them all"
        )
    # jax.make_mesh would let an axis take a part of a physical axis on v5e only.
    placed = mesh_utils.create_device_mesh(
        (data, fsdp, tensor), devices, allow_split_physical_axes=True
    )
    # With the default, Explicit, optax's assignment on the device fails.
    mesh = Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)
    held_shards(mesh)  # raises
    return mesh


def num_batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def held_shards(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """Returns the shards of the batch that each process's devices hold, by process.

    Raises:
      ValueError: processes hold partly the same shards, or some more than others.
    """
    num_shards = num_batch_shards(mesh)
    held = collections.defaultdict(set)
    for shard, devices in enumerate(mesh.devices.reshape(num_shards, -1)):
        for device in devices:
            held[device.process_index].add(shard)
    parts = {frozenset(shards) for shards in held.values()}
    if len({*map(len, parts)}) > 1 or sum(map(len, parts)) != num_shards:
        owners = collections.Counter(d.process_index for d in mesh.devices.flat)
        counts = " or ".join(map(str, sorted({*owners.values()})))
        raise ValueError(
            f"mesh.data = {mesh.shape['data']}, mesh.fsdp = {mesh.shape['fsdp']}, "
            f"mesh.tensor = {mesh.shape['tensor']} over {len(owners)} processes of "
            f"{counts} devices: processes would share some images of a batch and not "
            "others, or have more than others. Give all as many devices, and make "
            "mesh.tensor a divisor or a multiple of their number"
        )
    return {process: tuple(sorted(shards)) for process, shards in held.items()}


def reader_of(mesh: Mesh, *, process_index: int | None = None) -> Reader:
    """Returns the part of each global batch that a process reads.

    Args:
      mesh: from `create_mesh`.
      process_index: number of a process with devices in the mesh; by default this one.
    """
    held = held_shards(mesh)
    process_index = jax.process_index() if process_index is None else process_index
    if process_index not in held:
        raise ValueError(f"process {process_index} has no device in the mesh")
    parts = sorted({*held.values()})
    return Reader(parts.index(held[process_index]), len(parts))


def check_batch_size(batch_size: int, mesh: Mesh, *, field: str = "batch_size") -> None:
    """Raises ValueError unless the mesh's batch axes divide the global batch.

    Args:
      batch_size: images in the global batch.
      mesh: from `create_mesh`.
      field: the config field that holds `batch_size`, for the message.
    """
    shards = num_batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        raise ValueError(
            f"{field} = {batch_size} cannot be split over mesh.data × mesh.fsdp = "
            f"{mesh.shape['data']} × {mesh.shape['fsdp']}; make {field} a multiple of "
            f"{shards}, or raise mesh.tensor"
        )


def check_accumulation(accumulation: int, batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless each device's rows divide into `accumulation` parts."""
    rows = batch_size // num_batch_shards(mesh)
    if accumulation < 1 or rows % accumulation:
        raise ValueError(
            f"accumulation = {accumulation} does not divide the {rows} images that a "
            f"device has of batch_size = {batch_size}; make it a divisor of {rows}, or "
            "change batch_size, mesh.data or mesh.fsdp"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first dimension over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())
