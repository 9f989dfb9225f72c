"""The devices that a program is being traced for, by which its kernels are chosen.

A network does not say where it runs. `partition.apply_sharded` sets the platform from
its mesh while it traces; a plain `model.apply` is traced for JAX's default device.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Platform:
    """Properties of devices by which kernels are chosen.

    Attributes:
      name: "cpu", "gpu", "tpu", or "any" for a program that must run on each.
      compute_capability: (major, minor) of an NVIDIA GPU; (0, 0) otherwise.
      num_devices: how many devices share the program.
    """

    name: str
    compute_capability: tuple[int, int] = (0, 0)
    num_devices: int = 1


ANY = Platform("any")
"""A program for every platform, such as an exported one."""

_platform: contextvars.ContextVar[Platform | None] = contextvars.ContextVar(
    "platform", default=None
)


def platform_of(devices: Iterable[Any]) -> Platform:
    """Returns the platform of some devices, all of which are equal.

    Args:
      devices: JAX's devices, which need not be attached to this machine.
    """
    device, *others = devices
    name: Any = {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)
    # The capability of AMD's GPUs has letters.
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    capability = (0, 0)
    if major.isdecimal() and minor.isdecimal():
        capability = int(major), int(minor)
    return Platform(name, capability, 1 + len(others))


@contextlib.contextmanager
def tracing_for(platform: Platform) -> Iterator[None]:
    """Makes `platform` the current one for what is traced inside the `with` block."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def current_platform() -> Platform:
    """Returns the platform that `tracing_for` set, or that of JAX's default device."""
    platform = _platform.get()
    if platform is not None:
        return platform
    default: Any = jax.config.jax_default_device  # pyright: ignore
    if isinstance(default, str):
        default = jax.devices(default)[0]
    return platform_of([default or jax.devices()[0]])
