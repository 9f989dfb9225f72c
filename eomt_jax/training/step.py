"""One step of training as a pure, jitted function of state and batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from eomt_jax.models.network import Network
from eomt_jax.parallel.batch import split_batch
from eomt_jax.parallel.mesh import batch_sharding, replicated
from eomt_jax.parallel.partition import apply_sharded, param_shardings
from eomt_jax.training.optimizer import merge, trainable
from eomt_jax.training.schedules import MaskSchedule, Schedule
from eomt_jax.training.state import (
    PyTree,
    TrainState,
    param_shapes,
    state_shardings,
)
from eomt_jax.trees import BATCH_STATS, from_variables
from eomt_jax.types import Batch

Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
LossAndMetrics = Callable[..., tuple[jax.Array, tuple[Metrics, Any]]]


def make_loss(
    model: Network, criterion: Any, *, mask_probs_fn: MaskSchedule, mesh: Mesh | None
) -> LossAndMetrics:
    """Returns a function (params, batch_stats, part, *, …) → (loss, (parts, stats)).

    Its keyword arguments are rng, step, rows and normalizers; the statistics returned
    are those after the part, empty where the network has none.

    The part is a whole batch or some of its rows; `rows` says which, `normalizers` is
    the whole batch's: losses and gradients of all parts add up to the whole one's. The
    rng is the run's raw key; which queries are masked, which points are drawn and how
    far rotary positions are stretched follow from it, the step and the row alone.

    Args:
      model: the network.
      criterion: a `losses.criterion.Criterion`.
      mask_probs_fn: step → mask probabilities [L2]. When all are 0 nothing is masked,
        but every masked layer still makes its prediction and has its loss; when it
        returns None, the last prediction alone is made.
      mesh: on which parameters and batch lie; None computes in one place.
    """
    rules = model.partition_rules()

    def loss(
        params: PyTree,
        batch_stats: PyTree,
        batch: Batch,
        *,
        rng: jax.Array,
        step: jax.Array,
        rows: jax.Array,
        normalizers: Any,
    ) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(rng), step)
        mask_key, loss_key, position_key = jax.random.split(key, 3)
        outputs, updated = apply_sharded(
            model,
            from_variables({"params": params, BATCH_STATS: batch_stats}),
            batch.image,
            mask_probs=mask_probs_fn(step),
            rows=rows,
            train=True,
            rngs={"mask": mask_key, "positions": position_key},
            mutable=[BATCH_STATS],
            mesh=mesh,
            rules=rules,
        )
        terms = criterion(
            outputs,
            batch.targets,
            rng=loss_key,
            mesh=mesh,
            rows=rows,
            normalizers=normalizers,
        )
        parts = {
            "mask": criterion.mask_weight * terms.mask,
            "dice": criterion.dice_weight * terms.dice,
            "class": criterion.class_weight * terms.classification,
        }
        metrics = {"loss": terms.total}
        metrics |= {f"loss/{name}": part.sum() for name, part in parts.items()}
        for name, part in parts.items():
            metrics |= {f"loss/{name}_{i}": value for i, value in enumerate(part)}
        return terms.total, (metrics, updated.get(BATCH_STATS, {}))

    return loss


def make_train_step(
    model: Network,
    criterion: Any,
    tx: optax.GradientTransformation,
    *,
    mask_probs_fn: MaskSchedule,
    learning_rate_fns: tuple[Schedule, Schedule],
    mesh: Mesh,
    frozen_blocks: int = 0,
    accumulation: int = 1,
) -> TrainStep:
    """Returns the jitted step (state, batch) → (state, metrics).

    The state passed in is spent. Only the matcher waits for the host; metrics are
    scalars on the device: `loss`, its weighted parts `loss/mask`, `loss/dice`,
    `loss/class` (each also by prediction, `loss/mask_0` …), `grad_norm` before
    clipping, `learning_rate/head`, `learning_rate/vit` (before layer-wise decay) and
    `mask_prob/0` …, all of them as this step used them.

    Args:
      model: the network.
      criterion: a `losses.criterion.Criterion`.
      tx: from `optimizer.create_optimizer`.
      mask_probs_fn: step → mask probabilities [L2].
      learning_rate_fns: from `schedules.learning_rate_schedules`, for the metrics.
      mesh: the state lies on it as `parallel.partition` says, the batch over its
        batch axes.
      frozen_blocks: as `tx` has it, see `optimizer.trainable`. What is frozen is no
        variable of the gradient: backward passes end where only frozen parameters lie
        before, and `grad_norm` is of the others.
      accumulation: in how many passes over equal parts of the batch the gradient is
        summed up: the same step as in one pass, in less memory.
    """
    loss = make_loss(model, criterion, mask_probs_fn=mask_probs_fn, mesh=mesh)
    head_rate, vit_rate = learning_rate_fns
    groups = model.parameter_groups(param_shapes(model))
    rules = model.partition_rules()

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trained = trainable(state.params, groups, frozen_blocks)
        normalizers = criterion.normalizers(
            batch.targets, num_queries=model.num_queries
        )

        def grads_of(
            batch_stats: PyTree, batch: Batch, rows: jax.Array
        ) -> tuple[PyTree, Metrics, PyTree]:
            params = state.params
            if accumulation > 1 and mesh.shape["fsdp"] > 1:
                # Otherwise XLA gathers all blocks' weights before the first part, for all
                # parts, and keeps them.
                params, batch = jax.lax.optimization_barrier((params, batch))

            def trained_loss(trained: PyTree) -> Any:
                return loss(
                    merge(params, trained),
                    batch_stats,
                    batch,
                    rng=state.rng,
                    step=state.step,
                    rows=rows,
                    normalizers=normalizers,
                )

            grads, (metrics, batch_stats) = jax.grad(trained_loss, has_aux=True)(
                trainable(params, groups, frozen_blocks)
            )
            return grads, metrics, batch_stats

        rows = jnp.arange(len(batch.valid))
        if accumulation == 1:
            grads, metrics, batch_stats = grads_of(state.batch_stats, batch, rows)
        else:
            # There are no batch statistics: `setup` refuses to accumulate with them.
            batch_stats = state.batch_stats
            grads, metrics = _sum_over(
                split_batch((batch, rows), accumulation, mesh),
                lambda *part: grads_of(batch_stats, *part)[:2],
                shardings=param_shardings(trained, mesh, rules),
            )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        metrics["grad_norm"] = optax.tree.norm(grads)
        probs = mask_probs_fn(state.step)
        if probs is not None:
            metrics |= {f"mask_prob/{i}": prob for i, prob in enumerate(probs)}
        metrics["learning_rate/head"] = head_rate(state.step)
        metrics["learning_rate/vit"] = vit_rate(state.step)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=merge(state.params, optax.apply_updates(trained, updates)),
            opt_state=opt_state,
            batch_stats=batch_stats,
        )
        return state, metrics

    shardings = state_shardings(model, tx, mesh)
    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def _sum_over(
    parts: PyTree, grads_of: Callable[..., Any], *, shardings: PyTree
) -> tuple[PyTree, Metrics]:
    """Returns gradients and metrics, summed over the leading axis of `parts`.

    Gradients lie where their parameters do between the parts, whatever the partitioner
    would make of a loop's carry.
    """

    def add_part(sums: PyTree, part: PyTree) -> tuple[PyTree, None]:
        grads, metrics = jax.tree.map(jnp.add, sums, grads_of(*part))
        return (jax.lax.with_sharding_constraint(grads, shardings), metrics), None

    first = jax.tree.map(lambda leaf: leaf[0], parts)
    grads, metrics = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(grads_of, *first),
    )
    grads = jax.lax.with_sharding_constraint(grads, shardings)
    return jax.lax.scan(add_part, (grads, metrics), parts)[0]
