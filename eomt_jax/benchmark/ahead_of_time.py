"""Compiles a config's training and evaluation for devices that aren't present."""

import copy
import dataclasses
import math
import time
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from eomt_jax.benchmark import hlo, traffic
from eomt_jax.benchmark.blank_split import open_or_blank
from eomt_jax.benchmark.collectives import Collective, add_up, collectives
from eomt_jax.benchmark.flops import forward_flops, matmul_flops
from eomt_jax.benchmark.target import Target
from eomt_jax.evaluation.evaluator import count_function, evaluation_task
from eomt_jax.options import from_config
from eomt_jax.parallel.mesh import batch_sharding
from eomt_jax.pipeline.loader import eval_batches, train_batches
from eomt_jax.predict.runner import Runner
from eomt_jax.task_registry import get_task
from eomt_jax.training.options import RunOptions
from eomt_jax.training.reporting.step_memory import local_bytes
from eomt_jax.training.setup import Setup, setup
from eomt_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Program:
    """Memory, FLOPs and traffic of a compiled program.

    Attributes:
      name: "train", or "eval": the network and its post-processing.
      held: bytes on each device that stay there: parameters, optimizer state, batch.
        During an evaluation in a training the optimizer's state is there too.
      temporaries: bytes on each device that are in use while it runs: activations,
        gradients, gathered parameters, results; None if the program doesn't fit.
      total: bytes on each device, also of a program that doesn't fit.
      available: bytes that each device has for programs.
      images: number of images in a run, over all devices.
      flops: FLOPs of matrix products, over all devices, as the program is written.
      model_flops: FLOPs without anything that is computed twice: the forward pass, and
        twice as much for the backward pass of training.
      traced_flops: like `flops`, but with each loop's body counted once, so that it can
        be compared with the compiler's count.
      compiler_flops: the compiler's own count, over all devices; 0 if it has none.
      bytes_accessed: bytes read from and written to a device's main memory. A TPU's
        compiler counts them, and they are scaled for loops as FLOPs are; for other
        devices they are counted in the compiled program.
      attention: calls of kernels made for attention, by name; empty if XLA computes
        attention from products and a softmax.
      largest_array: the largest result of an instruction, as "f32[8,16,1605,1605]".
      collectives: one entry for each kind.
      seconds: time that tracing and compiling took.
    """

    name: str
    held: dict[str, int]
    temporaries: int | None
    total: float
    available: float
    images: int
    flops: float
    model_flops: float
    traced_flops: float
    compiler_flops: float = 0.0
    bytes_accessed: float = 0.0
    attention: dict[str, int] = dataclasses.field(default_factory=dict)
    largest_array: str = ""
    collectives: tuple[Collective, ...] = ()
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        return self.temporaries is not None and self.total <= self.available

    @property
    def memory_share(self) -> float:
        """Share of the usable memory that it takes; above 1 if it doesn't fit."""
        return self.total / self.available


def compile_config(
    config: ConfigDict, target: Target, *, programs: tuple[str, ...] = ("train", "eval")
) -> tuple[Setup, list[Program]]:
    """Compiles a config's programs for all devices of the target; runs nothing.

    Shapes follow the prepared dataset. For a published dataset that isn't prepared,
    they follow `blank_split`. A target without host callbacks gets the matcher that
    runs on the device.

    Args:
      config: the recipe, see `setup.setup`.
      target: result of `target.open_target`.
      programs: "train" and "eval", or one of them.

    Raises:
      ValueError: `setup` raises it, the dataset is unknown, or the compiler fails for
        another reason than memory.
    """
    if not target.host_callbacks and config.criterion.matcher == "scipy":
        config = copy.deepcopy(config)
        config.criterion.matcher = "device"
    data = from_config(RunOptions, config).dataset
    source = open_or_blank(data, data.train_split)
    run = setup(config, devices=target.devices, source=source)
    compile_one = {"train": _compile_train, "eval": _compile_eval}
    return run, [compile_one[name](run, target) for name in programs]


def _compile_train(run: Setup, target: Target) -> Program:
    config = run.config
    batches = train_batches(
        run.source, global_batch_size=1, options=run.train_options, seed=0
    )
    with batches:
        batch = _as_shapes(next(batches), config.batch_size, run)
    state = run.abstract_state()
    start = time.monotonic()
    traced = run.train_step.trace(state, batch)  # pyright: ignore
    held = {
        "parameters": local_bytes(state.params),
        "optimizer": local_bytes(state.opt_state),
        "batch": local_bytes(batch),
    }
    forward = forward_flops(run.initialization.model, training=True)
    return _compile(
        "train",
        traced,
        held,
        target,
        start=start,
        images=config.batch_size,
        model_flops=3 * forward * config.batch_size,
    )


def _compile_eval(run: Setup, target: Target) -> Program:
    config, model = run.config, run.initialization.model
    source = open_or_blank(config.dataset, config.dataset.eval_split)
    info, task = source.info, evaluation_task(config.eval.task, source.info)
    batches = eval_batches(
        source,
        global_batch_size=1,
        image_size=config.image_size,
        task=task,
        num_examples=1,
    )
    with batches:
        batch = _as_shapes(next(batches), config.eval.batch_size, run)
    state = run.abstract_state()
    start = time.monotonic()
    traced = Runner(model, info, task=task, mesh=run.mesh).trace(
        state.network_params, batch
    )
    held = {
        "parameters": local_bytes(state.params),
        "optimizer": local_bytes(state.opt_state),
        "batch": local_bytes(batch),
    }
    windows = math.prod(batch.image.shape[1:-3])
    forward = forward_flops(model, training=False) * windows
    program = _compile(
        "eval",
        traced,
        held,
        target,
        start=start,
        images=config.eval.batch_size,
        model_flops=forward * config.eval.batch_size,
        absent=held["optimizer"],
    )
    # Counting the metric is a small program of its own, which must compile too. Its
    # sums are added to those of the prediction.
    sharding = batch_sharding(run.mesh)
    prediction = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        traced.out_info,
    )
    chosen = get_task(task)
    metric_type = None if chosen.overlapping else chosen.metric(info)
    count = count_function(metric_type, run.mesh)
    compiled = count.lower(prediction, batch).compile()  # pyright: ignore
    more = collectives(hlo.read(compiled.as_text() or ""))
    return dataclasses.replace(
        program,
        collectives=add_up([*program.collectives, *more]),
        seconds=time.monotonic() - start,
    )


def _compile(
    name: str,
    traced: jax.stages.Traced,
    held: dict[str, int],
    target: Target,
    *,
    start: float,
    images: int,
    model_flops: float,
    absent: int = 0,
) -> Program:
    """Compiles one program.

    `absent` is the number of held bytes that are no arguments of the program.
    """
    program = Program(
        name=name,
        held=held,
        temporaries=None,
        total=0.0,
        available=target.device.memory,
        images=images,
        flops=matmul_flops(traced.jaxpr),
        model_flops=model_flops,
        traced_flops=matmul_flops(traced.jaxpr, loops_once=True),
    )
    logging.info("%s: traced in %.0f s", name, time.monotonic() - start)
    try:
        compiled = _compile_lowered(traced.lower())
    except jax.errors.JaxRuntimeError as error:
        short = hlo.memory_excess(str(error))
        if short is None:
            raise ValueError(
                f"{target.name} refuses the {name} program: {str(error)[:2000]}"
            ) from error
        needed, available = short
        return dataclasses.replace(
            program,
            total=needed + absent,
            available=available,
            seconds=time.monotonic() - start,
        )
    memory: Any = compiled.memory_analysis()
    own = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    module = hlo.read(compiled.as_text() or "")
    largest = traffic.largest_array(module)
    # The analysis is None for a GPU that isn't present. It counts a loop's body once.
    cost: Any = compiled.cost_analysis()
    if cost is None:
        counted = {"bytes_accessed": float(traffic.bytes_accessed(module))}
    else:
        loops = program.flops / max(program.traced_flops, 1.0)
        counted = {
            "compiler_flops": cost["flops"] * len(target.devices),
            "bytes_accessed": cost["bytes accessed"] * loops,
        }
    return dataclasses.replace(
        program,
        temporaries=own + absent - sum(held.values()),
        total=float(own + absent),
        attention=traffic.attention_kernels(module),
        largest_array=str(largest or ""),
        collectives=tuple(collectives(module)),
        seconds=time.monotonic() - start,
        **counted,
    )


def _compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program, without Triton if Triton has no kernel for a product.

    With a GPU, the compiler tries several kernels for each product and leaves out those
    that fail. Without one it takes the first, and fails if that fails.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "Couldn't find output tile sizes" not in str(error):
            raise
        logging.info("Triton has no kernel for a product; compiling with cuBLAS alone")
        return lowered.compile({"xla_gpu_enable_triton_gemm": False})


def _as_shapes(batch: Batch, num_images: int, run: Setup) -> Batch:
    """Returns the shapes of a batch on the mesh, with images like those in `batch`."""
    sharding = batch_sharding(run.mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            (num_images, *leaf.shape[1:]), leaf.dtype, sharding=sharding
        ),
        batch,
    )
