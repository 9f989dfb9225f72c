"""Counts the bytes, the largest array and the attention kernels of a compiled program.

XLA itself counts nothing when it compiles for a GPU that isn't there.
"""

import re
from collections import Counter

from eomt_jax.benchmark.hlo import Array, Instruction, Module

# These move nothing, or the computations that they call are counted instead.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "conditional", "call", "partition-id", "replica-id", "domain"),
    *("opt-barrier", "add-dependency"),
}
_LIBRARIES = ("__cublas", "__cudnn")

# Attention kernels, by the compiler's name or, for a TPU, by their metadata.
_KERNELS = (
    ("cuDNN forward", re.compile(r'target="__cudnn\$fmha\w*?Softmax\w*(?<!Backward)"')),
    ("cuDNN backward", re.compile(r'target="__cudnn\$fmha\w*Backward"')),
    ("splash forward", re.compile(r'target="tpu_custom_call".*splash\w*fwd')),
    ("splash backward", re.compile(r'target="tpu_custom_call".*splash\w*(dq|dkv|bwd)')),
)


def bytes_accessed(module: Module) -> int:
    """Returns the bytes that a run reads and writes in a device's main memory.

    Each kernel reads its operands and writes its results, as if nothing stayed in a
    cache between kernels; for slices and updates in place only that part counts. Loops
    count as often as they run, conditionals as their branch with the most bytes.
    """
    return _moved_by(module.entry, module)


def attention_kernels(module: Module) -> dict[str, int]:
    """Returns how often a run calls each kernel made for attention, by its name.

    It is empty if XLA computes attention from matrix products and a softmax.
    """
    found: Counter[str] = Counter()
    for instruction, runs in module.instructions():
        if instruction.operation != "custom-call":
            continue
        # The kernel's attributes may take several lines before its metadata on a TPU.
        described = f"{instruction.rest} {instruction.name}"
        for name, pattern in _KERNELS:
            if pattern.search(described):
                found[name] += runs
    return dict(found)


def largest_array(module: Module) -> Array | None:
    """Returns the largest array that an instruction of the program computes."""
    arrays = [
        array
        for instruction, _ in module.instructions()
        if instruction.operation not in _FREE
        for array in instruction.arrays
    ]
    return max(arrays, key=lambda array: array.bytes, default=None)


def _moved_by(name: str, module: Module) -> int:
    """Returns the bytes that one run of a computation moves."""
    body = {one.name: one for one in module.computations[name]}
    total = 0
    for instruction in body.values():
        total += _moved(instruction, body, module)
        inner = [_moved_by(part, module) for part in module.runs_inside(instruction)]
        if instruction.operation == "conditional":
            total += max(inner, default=0)
        else:
            total += module.trip_count(instruction) * sum(inner)
    return total


def _moved(
    instruction: Instruction, body: dict[str, Instruction], module: Module
) -> int:
    operation = instruction.operation
    if operation in _FREE or operation.endswith(("-done", "-update")):
        return 0
    if operation.startswith("async"):
        # The computations that it calls are counted where they run.
        return 0
    operands = [body[name].bytes for name in instruction.operands if name in body]
    match operation:
        case "dynamic-slice" | "slice" | "gather":
            return 2 * instruction.bytes
        case "dynamic-update-slice":
            return 2 * operands[1]
        case "fusion":
            fused = module.computations[instruction.called["calls"][0]]
            return _read_by(fused) + _written_by(fused)
        case "custom-call":
            return sum(operands) + _without_workspace(instruction)
    if operation.endswith("-start"):
        return 2 * sum(operands)
    return sum(operands) + instruction.bytes


def _read_by(fused: tuple[Instruction, ...]) -> int:
    """Returns the bytes of its operands that a fusion reads.

    For an operand that is only sliced, these are the bytes of the slices.
    """
    users: dict[str, list[Instruction]] = {}
    for instruction in fused:
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    total = 0
    for parameter in fused:
        if parameter.operation != "parameter":
            continue
        parts = [_part(user, parameter) for user in users.get(parameter.name, [])]
        whole = parameter.bytes
        total += whole if None in parts else min(whole, sum(filter(None, parts)))
    return total


def _part(user: Instruction, operand: Instruction) -> int | None:
    """Returns the bytes that an instruction reads of an operand; None if all."""
    if user.operation in ("dynamic-slice", "slice", "gather"):
        return user.bytes if user.operands[0] == operand.name else None
    if user.operation == "dynamic-update-slice" and user.operands[0] == operand.name:
        return 0
    return None


def _written_by(fused: tuple[Instruction, ...]) -> int:
    """Returns the bytes that a fusion writes; in place, those of the updates alone."""
    by_name = {instruction.name: instruction for instruction in fused}
    root = fused[-1]
    roots = (
        [by_name[name] for name in root.operands]
        if root.operation == "tuple"
        else [root]
    )
    total = 0
    for one in roots:
        while one.operation == "bitcast":
            one = by_name[one.operands[0]]
        if one.operation == "dynamic-update-slice":
            total += by_name[one.operands[1]].bytes
        else:
            total += one.bytes
    return total


def _without_workspace(call: Instruction) -> int:
    """Returns the bytes of a custom call's results, without its scratch memory."""
    if any(library in call.rest for library in _LIBRARIES) and len(call.arrays) > 1:
        return sum(a.bytes for a in call.arrays if a.dtype not in ("s8", "u8"))
    return call.bytes
