"""Describes the machine that a benchmark's numbers were measured on."""

import importlib.metadata
import os
import platform
import time
from typing import Any

import jax


def describe(*, torch_threads: int, with_torch: bool) -> dict[str, Any]:
    """Returns devices and versions; gives torch as many threads as JAX has processors.

    Args:
      torch_threads: torch's threads; 0 takes one for each of the process's processors.
      with_torch: False leaves torch out.
    """
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    packages = ["jax", "jaxlib", "flax"]
    if with_torch:
        import torch

        torch.set_num_threads(torch_threads or found["cores"])
        packages += ["torch", "transformers"]
        found["torch_threads"] = torch.get_num_threads()
    return found | {name: importlib.metadata.version(name) for name in packages}


def format_description(found: dict[str, Any]) -> str:
    """Returns the description in one line."""
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        return lines[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
