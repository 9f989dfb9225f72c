"""Slices of TPUs that aren't here, described by libtpu, and what their chips can do."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

EXAMPLES = (
    "v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4, v5e:8x8, v6e:2x2, v6e:4x4, v5p:2x2x1, "
    "v5p:2x2x2, v4:2x2x2"
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, as its maker describes it.

    Attributes:
      flops: peak of bfloat16 products, a second.
      memory: bytes of HBM that a program may use: what the compiler calls available,
        a little less than the chip has.
      memory_bandwidth: bytes a second, of HBM.
      link_bandwidth: bytes a second that it sends to other chips of the slice, over all
        its links: half of the published number, which counts both directions.
    """

    flops: float
    memory: float
    memory_bandwidth: float
    link_bandwidth: float


# Peak, bandwidths: docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e (read in 2026).
# Memory: what libtpu 0.0.51 says when a program is too large.
CHIPS = {
    "v4": Chip(275e12, 30.5 * 2**30, 1228e9, 150e9),
    "v5e": Chip(197e12, 15.75 * 2**30, 819e9, 200e9),
    "v5p": Chip(459e12, 95.73 * 2**30, 2765e9, 300e9),
    "v6e": Chip(918e12, 31.24 * 2**30, 1638e9, 400e9),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice to compile for.

    Attributes:
      name: libtpu's, "v5e:4x4".
      num_chips: of them; a v4 chip is two devices, each with half of everything.
      device: what one device can do.
      devices: of JAX, which nothing can run on.
      compiler: with its version, on which the memory that a program takes depends.
    """

    name: str
    num_chips: int
    device: Chip
    devices: tuple[Any, ...]
    compiler: str


def open_slice(name: str) -> Slice:
    """Asks libtpu for the slice `name`; needs no TPU.

    Raises:
      ValueError: there is no such slice, or libtpu isn't installed.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not match or match[1] not in CHIPS:
        raise ValueError(
            f"no TPU slice {name!r}: wanted one of {', '.join(CHIPS)}, a colon and its "
            f"shape in chips, such as {EXAMPLES}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "compiling for a TPU needs its compiler, which is on PyPI and runs without "
            "a TPU: pip install 'eomt_jax[tpu]'"
        )
    # libtpu looks for chips and for their machine's metadata, and locks both. Nothing
    # here runs on a chip.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(variable, value)
    num_chips = math.prod(map(int, match[2].split("x")))
    # To libtpu 0.0.42 one chip is no slice, unless its host has no more.
    options = {"chips_per_host_bounds": (1, 1, 1)} if num_chips == 1 else {}
    try:
        devices = topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition(": ")[2] or str(error)
        raise ValueError(
            f"libtpu knows no slice {name!r} ({reason.splitlines()[0]}); there are "
            f"{EXAMPLES}"
        ) from error
    share = num_chips / len(devices)
    chip = dataclasses.asdict(CHIPS[match[1]])
    device = Chip(**{field: value * share for field, value in chip.items()})
    compiler = f"libtpu {importlib.metadata.version('libtpu')}"
    return Slice(name, num_chips, device, tuple(devices), compiler)
