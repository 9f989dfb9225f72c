"""Targets of absent TPU slices, described by libtpu, and the speed of their chips."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from eomt_jax.benchmark.target import Device, Target

EXAMPLES = (
    "v5e:1x1, v5e:2x2, v5e:2x4, v5e:4x4, v5e:8x8, v6e:2x2, v6e:4x4, v5p:2x2x1, "
    "v5p:2x2x2, v4:2x2x2"
)


# Peaks and bandwidths are from docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e (read
# in 2026). Links are half of the published number, which counts both directions. Memory
# is the number that libtpu 0.0.51 reports when a program is too large.
CHIPS = {
    "v4": Device(275e12, 30.5 * 2**30, 1228e9, 150e9),
    "v5e": Device(197e12, 15.75 * 2**30, 819e9, 200e9),
    "v5p": Device(459e12, 95.73 * 2**30, 2765e9, 300e9),
    "v6e": Device(918e12, 31.24 * 2**30, 1638e9, 400e9),
}


def open_slice(name: str) -> Target:
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
    # libtpu would look for chips and for their machine's metadata, and lock both, which
    # isn't needed to compile.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    for variable, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(variable, value)
    num_chips = math.prod(map(int, match[2].split("x")))
    # libtpu 0.0.42 knows a slice of one chip only if its host has no other chip.
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
    device = Device(**{field: value * share for field, value in chip.items()})
    compiler = f"libtpu {importlib.metadata.version('libtpu')}"
    return Target(name, num_chips, device, tuple(devices), compiler)
