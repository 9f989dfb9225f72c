"""Counts the bytes that devices send one another in a compiled program."""

import dataclasses
import math
import re
from collections.abc import Sequence

from eomt_jax.benchmark.hlo import Instruction, Module

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind that a device takes part in, in one run.

    Attributes:
      kind: one of KINDS.
      count: how often they run.
      bytes: bytes on each device that are gathered, reduced or exchanged, counted on
        the larger side, input or result.
      wire_bytes: bytes that each device sends, if the devices form a ring.
    """

    kind: str
    count: int
    bytes: int
    wire_bytes: float


def collectives(module: Module) -> list[Collective]:
    """Returns the sums over a compiled program, by kind; each run of a loop counts."""
    found: dict[str, list[tuple[int, int, float]]] = {kind: [] for kind in KINDS}
    seen = set()
    for name, runs in module.runs.items():
        for instruction in module.computations[name]:
            kind = instruction.operation.removesuffix("-start")
            if kind not in found:
                continue
            # A collective that overlaps with other work is written as several
            # instructions.
            rest = instruction.rest
            channel = re.search(r"channel_id=(\d+)", rest)
            key = channel[1] if channel else f"{name} {rest}"
            if key in seen:
                continue
            seen.add(key)
            size, members = _payload(kind, instruction), _group_size(rest)
            if instruction.operation == "reduce-scatter":
                size *= members
            found[kind].append((runs, runs * size, runs * _sent(kind, size, members)))
    return [
        Collective(kind, *(sum(values) for values in zip(*rows)))
        for kind, rows in found.items()
        if rows
    ]


def add_up(parts: Sequence[Collective]) -> tuple[Collective, ...]:
    """Adds up the parts of each kind, in the order of KINDS."""
    kinds = [kind for kind in KINDS if any(part.kind == kind for part in parts)]
    return tuple(
        Collective(
            kind,
            *(
                sum(getattr(part, name) for part in parts if part.kind == kind)
                for name in ("count", "bytes", "wire_bytes")
            ),
        )
        for kind in kinds
    )


def _payload(kind: str, instruction: Instruction) -> int:
    """Returns the bytes of a collective's larger side, from the shape of its result."""
    if instruction.operation.endswith("-start") and kind != "all-reduce":
        # These are operand, result and sometimes a context; the largest is the side.
        return max((array.bytes for array in instruction.arrays), default=0)
    return instruction.bytes


def _group_size(rest: str) -> int:
    """Returns how many devices take part in one collective."""
    match = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    if match:
        return len(match[1].split(","))
    match = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
    if match:
        return int(match[1])
    match = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest)
    if match:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return 2


def _sent(kind: str, size: int, members: int) -> float:
    """Returns the bytes that each member of a ring sends."""
    if kind == "collective-permute":
        return size
    share = (members - 1) / members
    return size * share * (2 if kind == "all-reduce" else 1)
