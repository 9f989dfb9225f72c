"""Times the parts of a training step, and transformers' step."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eomt_jax.benchmark.flops import forward_flops
from eomt_jax.benchmark.timing import MatrixRate, Timing, take_turns
from eomt_jax.losses import matcher
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.partition import apply_sharded
from eomt_jax.training.run_schedule import mask_probs_schedule
from eomt_jax.training.setup import Setup
from eomt_jax.training.step import make_loss
from eomt_jax.trees import BATCH_STATS
from eomt_jax.types import Array, Batch, Outputs, Targets

OURS, PEAK = "eomt_jax", "matrix product"
# Each of these programs does more of the step; the differences are its parts.
FORWARD, LOSS, GRADIENT = "forward", "forward and loss", "without optimizer"
# The loss of a finished prediction and its gradient, with the targets as they are, and
# with twice as many rows, of which the added ones are padding.
LOSS_ALONE, PADDED = "loss and its gradient", "loss, twice the padding"


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """Times of a training step on a batch that is already on the device.

    Attributes:
      batch_size: images in the batch.
      num_targets: targets in the batch, without padding.
      max_targets: targets of an image, with padding.
      timings: times by name: OURS, its parts and, with rivals, "PyTorch, <mode>".
      matching: seconds of a step that scipy takes on the host.
      data: seconds in which all readers together read and prepare a batch.
      flops: FLOPs of forward and backward pass, without those of rematerialisation.
      peak: FLOPs a second of large matrix products, measured in the same rounds.
    """

    batch_size: int
    num_targets: int
    max_targets: int
    timings: Mapping[str, Timing]
    matching: float
    data: float
    flops: float
    peak: float

    def parts(self) -> dict[str, float]:
        """Returns the seconds of each part of the step.

        Time in which the compiler overlaps two parts is counted in neither.
        """
        forward, loss, gradient, step = (
            self.timings[name].median for name in (FORWARD, LOSS, GRADIENT, OURS)
        )
        return {
            "forward": forward,
            "matching and loss": loss - forward,
            "of it scipy on the host": self.matching,
            "backward": gradient - loss,
            "optimizer": step - gradient,
        }


def measure(run: Setup, *, rounds: int, torch_modes: Sequence[str] = ()) -> TrainStep:
    """Times the step that `run` trains with, at its first mask probabilities.

    Args:
      run: setup of the config; to be compared it must be on one device.
      rounds: number of rounds, in each of which all take a turn.
      torch_modes: keys of torch_rival.MODES for transformers' network and loss with
        torch's AdamW, on the same batch.
    """
    config = run.config
    model = run.initialization.model
    with run.train_batches(start_example=0) as batches:
        host_batch = next(batches)
        begin = time.perf_counter()
        num_batches = 8
        for _ in range(num_batches):
            next(batches)
        data = (time.perf_counter() - begin) / num_batches
    batch = place_batch(host_batch, run.mesh)
    state = run.create_state()
    params = jax.device_get(state.network_params)

    mask_probs = mask_probs_schedule(
        config, total_steps=run.total_steps, num_masked_layers=model.num_masked_layers
    )
    criterion = config.criterion
    loss = make_loss(model, criterion, mask_probs_fn=mask_probs, mesh=run.mesh)
    normalizers = criterion.normalizers(batch.targets, num_queries=model.num_queries)
    rows = jnp.arange(config.batch_size)

    def forward(params: Any, batch: Batch) -> Any:
        outputs, _ = apply_sharded(
            model,
            params,
            batch.image,
            mask_probs=mask_probs(jnp.int32(0)),
            rows=rows,
            train=True,
            rngs={"mask": jax.random.key(0), "positions": jax.random.key(1)},
            mutable=[BATCH_STATS],
            mesh=run.mesh,
            rules=model.partition_rules(),
        )
        return outputs

    def total(params: Any, batch: Batch) -> Any:
        value, (metrics, _) = loss(
            params,
            state.batch_stats,
            batch,
            rng=state.rng,
            step=jnp.int32(0),
            rows=rows,
            normalizers=normalizers,
        )
        return value, metrics

    functions = {
        FORWARD: forward,
        LOSS: total,
        GRADIENT: jax.grad(total, has_aux=True),
    }
    programs = {
        name: jax.jit(function).lower(state.network_params, batch).compile()
        for name, function in functions.items()
    }

    @jax.jit
    def loss_alone(outputs: Outputs, targets: Targets) -> Any:
        def of_outputs(outputs: Outputs) -> Array:
            rng = jax.random.key(0)
            return criterion(outputs, targets, rng=rng, rows=rows).total

        return jax.value_and_grad(of_outputs)(outputs)

    outputs = programs[FORWARD](state.network_params, batch)
    targets = jax.device_put(host_batch.targets, jax.devices()[0])
    alone = {
        name: functools.partial(
            loss_alone.lower(outputs, targets).compile(), outputs, targets
        )
        for name, targets in {LOSS_ALONE: targets, PADDED: _pad(targets)}.items()
    }
    with _watched() as solving:
        train_step: Any = run.train_step
        step = train_step.lower(state, batch).compile()
        solved = len(solving)

        def ours() -> Any:
            nonlocal state
            state, metrics = step(state, batch)
            return metrics

        def part(name: str) -> Any:
            return lambda: programs[name](state.network_params, batch)

        rate = MatrixRate(model.dtype)
        jobs = {OURS: ours, PEAK: rate, **{name: part(name) for name in programs}}
        jobs |= alone
        if torch_modes:
            jobs |= _rivals(run, params, host_batch, torch_modes)
        timings = take_turns(jobs, rounds=rounds)
        matching = float(np.median(solving[solved:])) if solving[solved:] else 0.0
    peak = rate.flops / timings.pop(PEAK).median
    valid = np.asarray(host_batch.targets.valid)
    return TrainStep(
        batch_size=config.batch_size,
        num_targets=int((valid & ~np.asarray(host_batch.targets.is_crowd)).sum()),
        max_targets=valid.shape[1],
        timings=timings,
        matching=matching,
        data=data,
        flops=3 * forward_flops(model, training=True) * config.batch_size,
        peak=peak,
    )


def _pad(targets: Targets) -> Targets:
    """Returns the targets with twice as many rows; the added ones are padding."""

    def double(x: Array) -> Array:
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, x.shape[-1])])

    labels, valid, crowd = map(
        double, (targets.labels, targets.valid, targets.is_crowd)
    )
    bits = None if targets.mask_bits is None else double(targets.mask_bits)
    return dataclasses.replace(
        targets, labels=labels, valid=valid, is_crowd=crowd, mask_bits=bits
    )


def _rivals(
    run: Setup, params: Any, batch: Batch, modes: Sequence[str]
) -> dict[str, Callable[[], Any]]:
    from eomt_jax.benchmark.torch_reference import Reference
    from eomt_jax.benchmark.torch_rival import MODES

    rivals = {
        mode: Reference(run, params, compile_options=MODES[mode]) for mode in modes
    }
    return {
        f"PyTorch, {mode}": functools.partial(rival.train_step, batch)
        for mode, rival in rivals.items()
    }


@contextlib.contextmanager
def _watched() -> Iterator[list[float]]:
    """Measures the seconds of each call of the solver on the host.

    It counts the calls of functions that are traced within the `with` block.
    """
    solve, seconds = matcher.solve_on_host, []

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = solve(*arguments)
        seconds.append(time.perf_counter() - begin)
        return result

    matcher.solve_on_host = timed
    try:
        yield seconds
    finally:
        matcher.solve_on_host = solve


def format_result(result: TrainStep) -> str:
    """Returns tables of the step beside its rivals, and of its parts."""
    ours = result.timings[OURS]
    lines = [
        "| training step | batch | time | ± | images/s | ours is faster by |",
        "|---|---|---|---|---|---|",
    ]
    for name, timing in result.timings.items():
        if name in (FORWARD, LOSS, GRADIENT, LOSS_ALONE, PADDED):
            continue
        ratio = "" if name == OURS else f"{ours.ratio_to(timing):.2f} ×"
        lines.append(
            f"| {name} | {result.batch_size} | {timing.median * 1e3:.0f} ms "
            f"| {timing.spread:.0%} | {result.batch_size / timing.median:.3g} "
            f"| {ratio} |"
        )
    lines += ["", "| part of the step | time | share |", "|---|---|---|"]
    for name, seconds in result.parts().items():
        share = seconds / ours.median
        lines.append(f"| {name} | {seconds * 1e3:.1f} ms | {share:.0%} |")
    share = result.flops / ours.median / result.peak
    last = (
        f"{result.num_targets} targets; reading a batch takes the readers "
        f"{result.data * 1e3:.0f} ms, beside the step; {result.flops / 1e9:.4g} GFLOP, "
        f"{share:.0%} of the {result.peak / 1e9:.4g} GFLOP/s that large products "
        "reached in the same rounds"
    )
    loss, padded = (result.timings[name].median for name in (LOSS_ALONE, PADDED))
    loss_line = (
        f"matching, loss and its gradient by themselves: {loss * 1e3:.1f} ms, "
        f"{loss / ours.median:.0%} of the step, {loss / result.batch_size * 1e3:.1f} ms "
        f"an image, scipy {result.matching / result.batch_size * 1e3:.2f} ms of it; "
        f"targets padded to {2 * result.max_targets} and not {result.max_targets} rows "
        f"make the step {(padded - loss) / ours.median:+.1%} longer"
    )
    return "\n".join([*lines, loss_line, last])


def as_json(result: TrainStep) -> dict[str, Any]:
    """Returns the numbers behind the tables, with times in seconds."""
    return {
        "batch_size": result.batch_size,
        "num_targets": result.num_targets,
        "max_targets": result.max_targets,
        "flops": result.flops,
        "peak_flops_per_second": result.peak,
        "host_matching_seconds": result.matching,
        "data_seconds": result.data,
        "parts": result.parts(),
        "timings": {
            name: {"first": timing.first, "seconds": list(timing.seconds)}
            for name, timing in result.timings.items()
        },
    }
