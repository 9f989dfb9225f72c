"""Reads the text of compiled programs: which instructions run, and how often."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator

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
    r"\b(calls|body|condition|to_apply|branch_computations|true_computation"
    r"|false_computation)=(\{.*?\}|[^\s,]+)"
)
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Array:
    """Type and shape of one array; its text is as f32[8,16].

    Attributes:
      dtype: name of the type in the compiler's spelling.
      shape: the sizes of the axes.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return _ITEM_BYTES.get(self.dtype, 1) * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: its name without the %.
      result: text of the result's shape; that of a tuple has parentheses.
      operation: "fusion", "all-reduce", …
      operands: names of instructions of the same computation.
      rest: the text after the operation's first parenthesis.
    """

    name: str
    result: str
    operation: str
    operands: tuple[str, ...]
    rest: str

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Returns the arrays of the result, without tokens."""
        return tuple(
            Array(dtype, tuple(map(int, filter(None, dims.split(",")))))
            for dtype, dims in _SHAPE.findall(self.result)
            if dtype in _ITEM_BYTES
        )

    @property
    def bytes(self) -> int:
        """Number of bytes of the result."""
        return sum(array.bytes for array in self.arrays)

    @functools.cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Names of the computations that it calls, by the attribute that names them."""
        return {
            purpose: tuple(re.findall(r"[\w.\-]+", names))
            for purpose, names in _CALLED.findall(self.rest)
        }


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: instructions of each computation, by its name.
      entry: name of the computation that runs first.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """Returns how often each computation runs, summed over its callers.

        The passes of a loop are the compiler's number, or that of its condition if it
        compares with one constant, as scans do; otherwise one pass is counted.
        """
        return self._count(self._called_by)

    @functools.cached_property
    def scheduled(self) -> dict[str, int]:
        """Returns `runs` for the computations whose instructions run one by one.

        Bodies of fusions and reductions aren't among them, as they are one kernel.
        """
        return self._count(self.runs_inside)

    def instructions(self) -> Iterator[tuple[Instruction, int]]:
        """Yields each scheduled instruction, and how often it runs."""
        for name, runs in self.scheduled.items():
            for instruction in self.computations[name]:
                yield instruction, runs

    def runs_inside(self, instruction: Instruction) -> list[str]:
        """Returns the computations that `instruction` runs, other than as a kernel."""
        return self._called_by(instruction, kernels=False)

    def trip_count(self, instruction: Instruction) -> int:
        """Returns how often its computations run: a loop's passes, otherwise 1."""
        called = instruction.called
        if "body" not in called:
            return 1
        if known := _TRIPS.search(instruction.rest):
            return int(known[1])
        condition = self.computations.get(called["condition"][0], ())
        limits = [
            int(line.rest.partition(")")[0])
            for line in condition
            if line.operation == "constant" and line.result.startswith("s32[]")
        ]
        counts_up = any("direction=LT" in line.rest for line in condition)
        return limits[0] if len(limits) == 1 and counts_up else 1

    def _called_by(self, instruction: Instruction, kernels: bool = True) -> list[str]:
        return [
            target
            for purpose, targets in instruction.called.items()
            if kernels or not _is_kernel(instruction, purpose)
            for target in targets
            if target in self.computations
        ]

    def _count(self, called_by: Callable[[Instruction], list[str]]) -> dict[str, int]:
        runs: dict[str, int] = {}

        def add(name: str, times: int) -> None:
            runs[name] = runs.get(name, 0) + times
            for instruction in self.computations[name]:
                for target in called_by(instruction):
                    add(target, times * self.trip_count(instruction))

        add(self.entry, 1)
        return runs


def read(text: str) -> Module:
    """Reads `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: it is no compiled program.
    """
    match = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
    if not match:
        raise ValueError("this is no compiled program: it has no ENTRY")
    lines: list[str] = []
    bodies: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line[:1] not in (" ", "}") and (name := _COMPUTATION.match(line)):
            lines = bodies.setdefault(name[1], [])
        elif line.startswith(" ") and " = " in line:
            lines.append(line)
    computations = {
        name: tuple(_instruction(line) for line in body)
        for name, body in bodies.items()
    }
    return Module(computations, match[1])


def _is_kernel(instruction: Instruction, purpose: str) -> bool:
    """Returns whether the called computation is compiled into the instruction."""
    if purpose == "to_apply":
        return instruction.operation != "call"
    return purpose == "calls" and not instruction.operation.startswith("async")


def _instruction(line: str) -> Instruction:
    name, _, value = line.partition(" = ")
    end = _closing(value) if value.startswith("(") else value.find(" ")
    operation, _, rest = value[end:].strip().partition("(")
    operands = rest[: _closing("(" + rest) - 2] if rest else ""
    return Instruction(
        name=name.strip().removeprefix("ROOT ").removeprefix("%"),
        result=value[:end],
        operation=operation,
        operands=tuple(re.findall(r"%([\w.\-]+)", operands)),
        rest=rest,
    )


def _closing(text: str) -> int:
    """Returns the position past the parenthesis that closes the first one."""
    depth = 0
    for i, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return i + 1
    return len(text)


def memory_excess(message: str) -> tuple[float, float] | None:
    """Returns (needed, available) bytes from a compiler's error about memory."""
    for pattern in (
        r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
        r"\(([\d.]+)([KMGT]?)B?\) exceeds available HBM \(([\d.]+)([KMGT]?)B?\)",
    ):
        if match := re.search(pattern, message):
            needed, unit, available, other = match.groups()
            return float(needed) * _UNITS[unit], float(available) * _UNITS[other]
    return None


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
