"""What a compiled program says of itself: its collectives, and why it doesn't fit."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

_ITEM_BYTES = {
    "pred": 1,
    **{f"{sign}{bits}": bits // 8 for sign in "su" for bits in (8, 16, 32, 64)},
    "f16": 2,
    "bf16": 2,
    "f32": 4,
    "f64": 8,
    "c64": 8,
}
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(
    r"(calls|body|condition|to_apply|branch_computations)=(\{.*?\}|\S+)"
)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind that a device takes part in, in one run.

    Attributes:
      kind: one of KINDS.
      count: how often.
      bytes: of their larger sides: what is gathered, reduced or exchanged, on each
        device.
      wire_bytes: that each device sends, in rings.
    """

    kind: str
    count: int
    bytes: int
    wire_bytes: float


def collectives(text: str) -> list[Collective]:
    """Sums over a compiled program, by kind.

    A loop's body counts as often as it runs where its condition compares with one
    constant, as scans do; once where that isn't known.

    Args:
      text: of `jax.stages.Compiled.as_text()`.
    """
    bodies = _computations(text)
    found: dict[str, list[tuple[int, int, float]]] = {kind: [] for kind in KINDS}
    seen = set()
    for name, runs in _runs(bodies, _entry(text)).items():
        for shape, operation, rest in _instructions(bodies[name]):
            kind = operation.removesuffix("-start")
            if kind not in found:
                continue
            # A collective that overlaps with others' work is written in several pieces.
            channel = re.search(r"channel_id=(\d+)", rest)
            key = channel[1] if channel else f"{name} {rest}"
            if key in seen:
                continue
            seen.add(key)
            size, members = _payload(kind, operation, shape), _group_size(rest)
            if operation == "reduce-scatter":
                size *= members
            found[kind].append((runs, runs * size, runs * _sent(kind, size, members)))
    return [
        Collective(kind, *(sum(values) for values in zip(*rows)))
        for kind, rows in found.items()
        if rows
    ]


def add_up(parts: Sequence[Collective]) -> tuple[Collective, ...]:
    """One of each kind, in the order of KINDS."""
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


def _computations(text: str) -> dict[str, list[str]]:
    """Lines of each computation, by its name."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line[:1] not in (" ", "}") and (match := _COMPUTATION.match(line)):
            lines = bodies.setdefault(match[1], [])
        elif line.startswith(" "):
            lines.append(line)
    return bodies


def _entry(text: str) -> str:
    match = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    if not match:
        raise ValueError("this is no compiled program: it has no ENTRY")
    return match[1]


def _runs(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs; several callers add up."""
    runs: dict[str, int] = {}

    def add(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for line in bodies[name]:
            called = dict(_CALLED.findall(line))
            trips = 1
            if "body" in called:
                condition = called["condition"].strip("%,{}")
                trips = _trip_count(bodies.get(condition, []))
            for names in called.values():
                for target in re.findall(r"[\w.\-]+", names):
                    if target in bodies:
                        add(target, times * trips)

    add(entry, 1)
    return runs


def _trip_count(condition: list[str]) -> int:
    """Of a loop whose condition is `i < constant`; else 1."""
    text = "\n".join(condition)
    limits = re.findall(r"s32\[\]\S* constant\((\d+)\)", text)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in text else 1


def _instructions(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """(shape, operation, the rest) of each line."""
    for line in lines:
        _, _, value = line.partition(" = ")
        end = _closing(value) if value.startswith("(") else value.find(" ")
        operation, _, rest = value[end:].strip().partition("(")
        yield value[:end], operation, rest


def _closing(text: str) -> int:
    """Past the parenthesis that closes the first one."""
    depth = 0
    for i, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return i + 1
    return len(text)


def _payload(kind: str, operation: str, shape: str) -> int:
    """Bytes of a collective's larger side, from the shape of its result."""
    sizes = [
        _ITEM_BYTES[dtype] * math.prod(map(int, filter(None, dims.split(","))))
        for dtype, dims in _SHAPE.findall(shape)
        if dtype in _ITEM_BYTES
    ]
    if operation.endswith("-start") and kind != "all-reduce":
        # Operand, result and sometimes context: the larger one is the whole.
        return max(sizes, default=0)
    return sum(sizes)


def _group_size(rest: str) -> int:
    """Devices that take part in one collective."""
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
    """Bytes that each member sends in a ring."""
    if kind == "collective-permute":
        return size
    share = (members - 1) / members
    return size * share * (2 if kind == "all-reduce" else 1)


def memory_excess(message: str) -> tuple[float, float] | None:
    """(needed, available) bytes from the compiler's complaint that memory is short."""
    for pattern in (
        r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
        r"\(([\d.]+)([KMGT]?)B?\) exceeds available HBM \(([\d.]+)([KMGT]?)B?\)",
    ):
        if match := re.search(pattern, message):
            needed, unit, available, other = match.groups()
            return float(needed) * _UNITS[unit], float(available) * _UNITS[other]
    return None


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
