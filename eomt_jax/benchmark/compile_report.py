"""Reports on programs compiled for absent devices, as text and as JSON."""

import dataclasses
from typing import Any

from eomt_jax.benchmark.ahead_of_time import Program
from eomt_jax.benchmark.target import Target
from eomt_jax.parallel.mesh import num_batch_shards
from eomt_jax.training.reporting import step_memory
from eomt_jax.training.reporting.step_memory import gigabytes
from eomt_jax.training.setup import Setup

EFFICIENCY = 0.4
"""Share of the peak FLOPs that well-tuned ViTs reach; it is not measured here."""


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Least seconds that one run takes, by each of the device's limits.

    Attributes:
      compute: time of the matrix products at the chip's peak.
      memory: time of reading and writing at the memory's bandwidth; it is too long if
        the bytes include those that stay in the chip's small memory.
      links: time of the collectives at the bandwidth of the links between chips, with
        no other work at the same time.
    """

    compute: float
    memory: float
    links: float

    @classmethod
    def of(cls, program: Program, target: Target) -> "Roofline":
        device = target.device
        wire = sum(part.wire_bytes for part in program.collectives)
        return cls(
            compute=program.flops / len(target.devices) / device.flops,
            memory=program.bytes_accessed / device.memory_bandwidth,
            links=wire / device.link_bandwidth,
        )

    def seconds(self, target: Target) -> float:
        """Returns an estimate for a run: products at EFFICIENCY, or a slower limit.

        A TPU's memory is left out, since its count is far too high for an estimate.
        """
        memory = self.memory if target.memory_limits else 0.0
        return max(self.compute / EFFICIENCY, memory, self.links)


def as_json(run: Setup, target: Target, programs: list[Program]) -> dict[str, Any]:
    """Returns plain values, with the fields of the config that matter for memory."""
    config = run.config
    return {
        "target": target.name,
        "chips": target.num_chips,
        "compiler": target.compiler,
        "variant": config.model.variant,
        "dataset": config.dataset.name,
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "eval_batch_size": config.eval.batch_size,
        "accumulation": config.accumulation,
        "remat": config.model.remat,
        "moments_dtype": config.optimizer.moments_dtype,
        "mesh": dict(run.mesh.shape),
        "efficiency": EFFICIENCY,
        "programs": [_program_json(program, target) for program in programs],
    }


def _program_json(program: Program, target: Target) -> dict[str, Any]:
    roofline = Roofline.of(program, target)
    return {
        **dataclasses.asdict(program),
        "fits": program.fits,
        "memory_share": program.memory_share,
        "roofline_seconds": dataclasses.asdict(roofline),
        "images_per_second": program.images / roofline.seconds(target),
    }


def format_report(run: Setup, target: Target, programs: list[Program]) -> str:
    """Returns the report as lines of text for the terminal."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    head = (
        f"{target.name}; mesh {mesh}; "
        f"{run.config.model.variant} at {run.config.image_size} px; {target.compiler}"
    )
    parts = [_format_program(run, target, program) for program in programs]
    notes = [_row("note", note) for note in target.notes]
    return "\n".join([head, *notes, *parts])


def _format_program(run: Setup, target: Target, program: Program) -> str:
    config = run.config
    rows = program.images // num_batch_shards(run.mesh)
    what = f"{program.name}: {program.images} images, {rows} on a device"
    if program.name == "train":
        what += f" in {config.accumulation} " + (
            "pass" if config.accumulation == 1 else "passes"
        )
        what += f"; remat {'on' if config.model.remat else 'off'}"
    lines = [what]
    for name, size in program.held.items():
        lines.append(_row(name, gigabytes(size)))
    share = f"{program.memory_share:.0%} of {gigabytes(program.available)}"
    if program.temporaries is None:
        excess = gigabytes(program.total - program.available)
        lines.append(_row("needed", f"{gigabytes(program.total)}, {share}"))
        lines.append(_row("DOES NOT FIT", f"{excess} too much on each device"))
    else:
        lines.append(_row("temporaries", gigabytes(program.temporaries)))
        lines.append(_row("total", f"{gigabytes(program.total)}, {share}"))
        if not program.fits:
            excess = gigabytes(program.total - program.available)
            lines.append(_row("DOES NOT FIT", f"{excess} too much on each device"))
    if not program.fits:
        lines += [_row("to turn", advice) for advice in _advise(run, target, program)]
    lines.append(_row("FLOPs", _flops(program)))
    if program.temporaries is not None:
        lines += _format_speed(program, target)
    lines.append(_row("compiled in", f"{program.seconds:.0f} s"))
    return "\n".join(lines)


def _format_speed(program: Program, target: Target) -> list[str]:
    collectives = [
        _row(part.kind, f"{part.count} of {gigabytes(part.bytes)} in all")
        for part in program.collectives
    ] or [_row("collectives", "none")]
    roofline = Roofline.of(program, target)
    times = ", ".join(
        f"{name} {1000 * seconds:.1f} ms"
        for name, seconds in dataclasses.asdict(roofline).items()
    )
    seconds = roofline.seconds(target)
    estimate = (
        f"{1000 * seconds:.3g} ms, {program.images / seconds:.3g} images a second at "
        f"{EFFICIENCY:.0%} of the peak"
        f"{' or at the bandwidth' if target.memory_limits else ''}"
    )
    kernels = [f"{count} {name}" for name, count in program.attention.items()]
    return [
        _row("bytes", f"{gigabytes(program.bytes_accessed)} read and written"),
        _row("attention", f"{', '.join(kernels)}" if kernels else "XLA"),
        _row("largest array", program.largest_array),
        *collectives,
        _row("roofline", times),
        _row("estimate", estimate),
    ]


def _flops(program: Program) -> str:
    text = (
        f"{program.flops:.3g} in matrix products, {program.model_flops:.3g} without "
        "what is computed twice"
    )
    if not program.compiler_flops:
        return text
    ratio = program.compiler_flops / program.traced_flops
    once = "" if program.flops == program.traced_flops else ", loops counted once"
    return f"{text}; the compiler counts {ratio:.2f} times as many{once}"


def _advise(run: Setup, target: Target, program: Program) -> list[str]:
    """Returns flags and targets with which a program may fit, the cheapest first."""
    if program.name == "train":
        return [*step_memory.advise(run), target.larger]
    advice, fewest = [], num_batch_shards(run.mesh)
    if run.config.eval.batch_size > fewest:
        advice.append(f"--config.eval.batch_size={fewest}: an image a device")
    return [*advice, *step_memory.advise_mesh(run), target.larger]


def _row(name: str, value: str) -> str:
    return f"  {name:<20}{value}"
