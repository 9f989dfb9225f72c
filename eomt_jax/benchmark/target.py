"""Targets for compiling: TPU slices and GPUs that need not be present."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Device:
    """Speed and memory of one device of a target, as its maker describes it.

    Attributes:
      flops: peak FLOPs a second of products in bfloat16, in which the recipes compute.
      memory: bytes that a program may use, a little less than the device has.
      memory_bandwidth: bytes a second of the device's main memory.
      link_bandwidth: bytes a second that it sends to the target's other devices, over
        all its links.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for, which need not be present.

    Attributes:
      name: its name on the command line, such as "v5e:4x4" or "h100:8".
      num_chips: number of chips or cards; a TPU v4 chip is two devices.
      device: what one device can do.
      devices: JAX's devices; nothing can run on them.
      compiler: its name and version, on which the memory that a program takes depends.
      host_callbacks: whether programs that call Python can be compiled for it.
      memory_limits: whether the count of bytes read and written is good enough to
        estimate a program's time from it.
      larger: what to take when this target is too small.
      notes: sentences about what the compiler cannot know of the real device.
    """

    name: str
    num_chips: int
    device: Device
    devices: tuple[Any, ...]
    compiler: str
    host_callbacks: bool = True
    memory_limits: bool = False
    larger: str = "a larger slice"
    notes: tuple[str, ...] = ()


def open_target(name: str) -> Target:
    """Returns the target called `name`, with devices to compile for.

    Args:
      name: a TPU slice with its shape in chips, such as "v5e:4x4", or a GPU with the
        number of cards, such as "h100:8".

    Raises:
      ValueError: there is no such target, or its compiler isn't installed.
    """
    from eomt_jax.benchmark import gpu_target, tpu_target

    kind = name.partition(":")[0]
    if kind in tpu_target.CHIPS:
        return tpu_target.open_slice(name)
    if kind in gpu_target.CARDS:
        return gpu_target.open_cards(name)
    raise ValueError(
        f"no target {name!r}: wanted a TPU slice, such as {tpu_target.EXAMPLES}; or a "
        f"GPU of {', '.join(gpu_target.CARDS)}, with how many of it, such as h100:8"
    )
