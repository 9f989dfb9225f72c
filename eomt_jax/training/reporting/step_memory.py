"""Compares the memory that a training step takes with what the device has."""

import math
import os
from typing import Any

import jax

from eomt_jax.parallel.mesh import num_batch_shards
from eomt_jax.training.reporting.measured_step import Measured
from eomt_jax.training.setup import Setup


def fits(run: Setup, analysis: Any) -> bool:
    """Returns whether a step can be tried; True if the memory is unknown."""
    device = run.mesh.local_devices[0]
    available = _available(device)
    return not available or analysis is None or _total(analysis) <= available


def _total(analysis: Any) -> int:
    return analysis.argument_size_in_bytes + analysis.temp_size_in_bytes


def _available(device: Any) -> int:
    """Returns the bytes of an accelerator that JAX may use; 0 where it doesn't say."""
    if device.platform == "cpu":
        return 0
    return (device.memory_stats() or {}).get("bytes_limit") or 0


def describe_memory(run: Setup, analysis: Any, measured: Measured | None = None) -> str:
    """Returns a table of what a step takes on each device, and one sentence about it.

    Args:
      run: whose step it is.
      analysis: of its compiled training step, jax.stages.Compiled.memory_analysis().
      measured: a step that was run; on a CPU nothing else tells what it takes.
    """
    state = run.abstract_state()
    params, opt_state = local_bytes(state.params), local_bytes(state.opt_state)
    trained = run.trainable(state.params)
    gradients = local_bytes(trained)
    lines = [
        f"parameters          {gigabytes(params)}",
        f"optimizer state     {gigabytes(opt_state)}",
        f"gradients           {gigabytes(gradients)}",
    ]
    if analysis is None:
        lines.append("activations         unknown: this compiler doesn't tell")
        return "\n".join(lines)
    device = run.mesh.local_devices[0]
    total, available = _total(analysis), _available(device)
    if device.platform == "cpu":
        lines.append(_describe_process(measured, copied=params + opt_state))
        return "\n".join(lines)
    lines += [
        f"all temporaries     {gigabytes(analysis.temp_size_in_bytes)}",
        f"the step as a whole {gigabytes(total)}, as compiled for {device.platform}",
    ]
    if not available:
        lines.append(
            f"A {device.platform.upper()} was compiled for, which doesn't say how much "
            "memory a step may take; docs/gpus.md has what each recipe takes of which GPU."
        )
        return "\n".join(lines)
    # With several passes their sum is kept beside the gradients of the one that runs.
    kept = params + opt_state + gradients * (1 if run.config.accumulation == 1 else 2)
    fit = describe_fit(
        total,
        available,
        kept=kept,
        images=images_in_a_pass(run),
        device=device.device_kind,
    )
    if total > available:
        fit += f" Smaller: {'; '.join(advise(run))}; or a larger device."
    return "\n".join([*lines, fit])


def _describe_process(measured: Measured | None, *, copied: int) -> str:
    """Returns a sentence about the process that computes on a CPU.

    The compiler's own sums leave out what libraries allocate, and the process itself.
    """
    if measured is None:
        return (
            "What the process takes with its temporaries only shows when a step is run: "
            "leave out --nomeasure."
        )
    peak, _ = measured.peak
    return (
        f"With its temporaries the process took {gigabytes(peak)} at most, measured. "
        f"Saving a checkpoint copies {gigabytes(copied)}, and evaluations of "
        "eval.batch_size images have temporaries of their own. The machine has "
        f"{gigabytes(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))}."
    )


def describe_fit(
    total: int, available: int, *, kept: int, images: int, device: str
) -> str:
    """Returns a sentence about a step and the device at hand.

    How much an image takes follows from what the step takes beside `kept`, all of which
    is ascribed to the images.

    Args:
      total: bytes of the step.
      available: bytes that JAX may use.
      kept: bytes that are there whatever the batch.
      images: in a pass, on one device.
      device: its kind.
    """
    per_image = max(total - kept, 1) / images
    have = f"the {gigabytes(available)} that JAX may use of the {device}"
    if total <= available:
        more = images + math.floor((available - total) / per_image)
        return (
            f"This step takes {gigabytes(total)} of {have}: {_count(images)} in a pass, "
            f"and about {more} would fit."
        )
    fewer = max(0, math.floor((available - kept) / per_image))
    room = f"about {_count(fewer)} of them" if fewer else "not even one"
    return (
        f"This step DOES NOT FIT: {_count(images)} in a pass take {gigabytes(total)}, "
        f"more than {have}, where {room} would fit."
    )


def images_in_a_pass(run: Setup) -> int:
    """Returns how many images a device has in one pass of a step."""
    config = run.config
    return config.batch_size // num_batch_shards(run.mesh) // config.accumulation


def advise(run: Setup) -> list[str]:
    """Returns flags that make a step smaller, the cheapest in time first."""
    config, mesh = run.config, run.mesh
    advice = []
    if not config.model.remat:
        advice.append("--config.model.remat=true: a third more time")
    rows = config.batch_size // num_batch_shards(mesh)
    if config.accumulation < rows:
        advice.append(f"--config.accumulation={rows}: one image a pass; no slower")
    if config.optimizer.moments_dtype == "float32":
        advice.append("--config.optimizer.moments_dtype=bfloat16")
    return advice + advise_mesh(run)


def advise_mesh(run: Setup) -> list[str]:
    """Returns flags that spread a network over more devices; none for a single one."""
    mesh = run.mesh
    advice = []
    if mesh.shape["data"] > 1:
        devices = mesh.shape["data"] * mesh.shape["fsdp"]
        advice.append(f"--config.mesh.fsdp={devices}: parameters spread over them all")
    if mesh.size > mesh.shape["tensor"]:
        advice.append(
            f"--config.mesh.tensor={2 * mesh.shape['tensor']}: heads and feed-forward "
            "spread too; slower"
        )
    return advice


def local_bytes(tree: Any) -> int:
    """Returns the bytes of a tree's shards on one device, without layout padding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def gigabytes(size: Any) -> str:
    """Returns a size as a human reads it."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _count(images: int) -> str:
    return f"{images} image" if images == 1 else f"{images} images"
