"""Targets of absent GPUs, for which JAX's CUDA plugin can compile."""

import importlib.metadata
import importlib.util
import re

from jax.experimental import topologies

from eomt_jax.benchmark.gpu_cards import CARDS, Card, target_config
from eomt_jax.benchmark.target import Device, Target
from eomt_jax.parallel.gpu_memory import MEMORY_FRACTION

WORKSPACE = 1e9
"""Bytes of JAX's part of the memory that a report counts as not usable.

The compiler counts the workspaces of cuDNN's attention and convolutions as 0 bytes, and
chooses kernels for matrix products without trying them, while a real run tries several
with workspaces of up to some hundred MB. The allocator loses some memory to fragments.
"""


def open_cards(name: str) -> Target:
    """Returns some cards of one machine as a target for XLA; needs no GPU.

    Raises:
      ValueError: there is no such card, or JAX's CUDA plugin isn't installed.
    """
    match = re.fullmatch(r"(\w+):([1-9]\d*)", name)
    if not match or match[1] not in CARDS:
        raise ValueError(
            f"no GPUs {name!r}: wanted one of {', '.join(CARDS)}, a colon and how many "
            "of it are in the machine, such as h100:8"
        )
    if not is_compiler_here():
        raise ValueError(
            "compiling for a GPU needs its compiler, JAX's CUDA plugin, which runs "
            "without a GPU and takes 5 GB: pip install 'eomt_jax[cuda]'"
        )
    card, number = CARDS[match[1]], int(match[2])
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name=match[1],
        target_config=target_config(card),
        topology=f"1x1x{number}",
    )
    return Target(
        name=name,
        num_chips=number,
        device=Device(
            flops=card.flops,
            memory=usable_memory(card),
            memory_bandwidth=card.bandwidth,
            link_bandwidth=card.link_bandwidth,
        ),
        devices=tuple(topology.devices),
        compiler=f"XLA of jaxlib {importlib.metadata.version('jaxlib')}",
        host_callbacks=False,
        memory_limits=True,
        larger="a card with more memory, or several of them",
        notes=_notes(card),
    )


def is_compiler_here() -> bool:
    """Returns whether JAX's CUDA plugin is installed."""
    return any(
        importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (13, 12)
    )


def usable_memory(card: Card) -> float:
    """Returns the bytes of a card that a program may take, by the compiler's count."""
    return MEMORY_FRACTION * card.memory_bytes - WORKSPACE


def _notes(card: Card) -> tuple[str, ...]:
    usable = (
        f"{usable_memory(card) / 1e9:.1f} of the {card.product}'s "
        f"{card.memory_bytes / 1e9:.1f} GB are taken as usable: JAX claims "
        f"{MEMORY_FRACTION:.0%} and leaves the rest to CUDA, and {WORKSPACE / 1e9:.0f} "
        "GB of that is kept for workspaces, which are counted as 0 here"
    )
    notes = [
        usable,
        "kernels are chosen without trying them out, so a real run may differ",
        "criterion.matcher=device stands in for scipy, which can't be compiled in",
    ]
    if not card.has_bfloat16:
        notes.append(
            f"compute capability {'.'.join(map(str, card.capability))} has no bfloat16 "
            "products: XLA computes them in float32, without tensor cores and without "
            "cuDNN's attention"
        )
    return tuple(notes)
