"""AdamW with one learning rate for each parameter.

Source of the recipe: tue-mps/eomt@7bd19dd, training/lightning_module.py.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from eomt_jax.models.network import ParameterGroup, ParameterGroups
from eomt_jax.options import Choice, Real, Whole, option
from eomt_jax.training import moments, schedules

PyTree = Any


@dataclasses.dataclass(frozen=True)
class OptimizerOptions(schedules.RateOptions):
    """AdamW, its learning rates, and what it leaves alone."""

    weight_decay: float = option(
        0.05,
        Real(0.0, 100.0),
        "AdamW decays every parameter by this times its learning rate.",
    )
    layer_decay: float = option(
        0.8,
        Real(0.0, 1.0, above=True),
        "The learning rate is multiplied by this from each of the ViT's blocks to the "
        "one below it.",
    )
    undecayed_blocks: int = option(
        0,
        Whole(0, 1000),
        "This many of the ViT's last blocks keep the full rate all the same.",
    )
    clip_norm: float = option(
        0.01,
        Real(0.0, 1e9, above=True),
        "Gradients are scaled down to this global norm where theirs is larger.",
    )
    beta1: float = option(
        0.9,
        Real(0.0, 1.0, below=True),
        "Adam's first moment keeps this share of itself in each step.",
    )
    beta2: float = option(
        0.999,
        Real(0.0, 1.0, below=True),
        "Adam's second moment keeps this share of itself in each step.",
    )
    eps: float = option(
        1e-8,
        Real(0.0, 1.0, above=True),
        "Adam adds this to the root of its second moment.",
    )
    moments_dtype: str = option(
        "float32",
        Choice(moments.DTYPES),
        "Adam's two moments are kept in this type; bfloat16 takes half the memory.",
    )
    frozen_blocks: int = option(
        0,
        Whole(-1, 1000),
        "The embeddings and this many of the ViT's first blocks stay as they are; -1 "
        "freezes the whole ViT.",
    )


@dataclasses.dataclass(frozen=True)
class RateRule:
    """Says which schedule one parameter follows, and its factor of layer-wise decay."""

    in_backbone: bool
    multiplier: float


def trainable(tree: PyTree, groups: ParameterGroups, frozen_blocks: int = 0) -> PyTree:
    """Returns the part of a tree that belongs to trained parameters.

    Args:
      tree: a network's parameters, or anything in a tree like theirs.
      groups: of these parameters.
      frozen_blocks: how many of the backbone's first blocks rest, and with them its
        embeddings; -1 freezes the whole backbone, its final norm included. 0 freezes
        nothing.

    Raises:
      ValueError: the backbone has fewer blocks.
    """
    if not frozen_blocks:
        return tree
    if not -1 <= frozen_blocks <= groups.num_blocks:
        raise ValueError(
            f"optimizer.frozen_blocks = {frozen_blocks}: the backbone has "
            f"{groups.num_blocks} blocks; give a number from 0 to that, or -1 for the "
            "whole backbone"
        )
    first = groups.num_blocks + 1 if frozen_blocks == -1 else frozen_blocks
    kept = {
        path
        for path, group in _flatten(groups.tree).items()
        if group.depth is None or group.depth >= first
    }
    return traverse_util.unflatten_dict(
        {path: leaf for path, leaf in _flatten(tree).items() if path in kept}
    )


def merge(params: PyTree, part: PyTree) -> PyTree:
    """Returns `params` with what `trainable` left of them replaced by `part`."""
    return traverse_util.unflatten_dict({**_flatten(params), **_flatten(part)})


def _flatten(tree: PyTree) -> dict[Any, Any]:
    return traverse_util.flatten_dict(tree)


def rate_rules(
    groups: ParameterGroups, *, layer_decay: float, undecayed_blocks: int = 0
) -> PyTree:
    """Returns the RateRule of every parameter, in a tree like theirs.

    Of the backbone's L blocks, block b takes layer_decay^(L − 1 − b); embeddings count
    as block 0; what follows the last block is not decayed.

    Args:
      groups: of the parameters.
      layer_decay: factor from one block to the one below it.
      undecayed_blocks: so many of the last blocks are not decayed either; those below
        them keep their exponents.

    Raises:
      ValueError: the backbone has fewer blocks.
    """
    num_blocks = groups.num_blocks
    if not 0 <= undecayed_blocks <= num_blocks:
        raise ValueError(
            f"optimizer.undecayed_blocks = {undecayed_blocks}: the backbone has "
            f"{num_blocks} blocks; give a number from 0 to that"
        )

    def rule(group: ParameterGroup) -> RateRule:
        if group.depth is None or group.depth >= num_blocks - undecayed_blocks:
            return RateRule(group.depth is not None, multiplier=1.0)
        exponent = num_blocks - 1 - max(0, group.depth)
        return RateRule(in_backbone=True, multiplier=layer_decay**exponent)

    return jax.tree.map(rule, groups.tree)


def learning_rates(
    groups: ParameterGroups,
    step: schedules.Step,
    options: OptimizerOptions,
    *,
    total_steps: int,
) -> PyTree:
    """Returns the learning rate of every parameter at one step, in a tree like theirs."""
    head_rate, vit_rate = schedules.learning_rate_schedules(
        options, total_steps=total_steps
    )
    head, vit = head_rate(step), vit_rate(step)
    return jax.tree.map(
        lambda rule: (vit if rule.in_backbone else head) * rule.multiplier,
        rate_rules(
            groups,
            layer_decay=options.layer_decay,
            undecayed_blocks=options.undecayed_blocks,
        ),
    )


def create_optimizer(
    groups: ParameterGroups,
    options: OptimizerOptions = OptimizerOptions(),
    *,
    total_steps: int,
) -> optax.GradientTransformation:
    """Returns a clip by the global norm and AdamW, with decay of every parameter.

    While the ViT's rate is 0 its gradients still count in the clip's norm and move
    Adam's moments. The decay is multiplied by each parameter's own rate, as in
    torch.optim.AdamW. Frozen parameters have no part in any of it: no gradient, no
    moments, no decay, no share in the norm.

    Args:
      groups: of the network's parameters.
      options: rates, moments, decay, clip and what is frozen.
      total_steps: length of the run; rates are 0 from there on.

    Returns:
      A transformation whose state is Adam's: one step counter and two moments. Its
      functions take all parameters; gradients, moments and updates are trees of what
      `trainable` leaves of them.
    """
    rates_at = functools.partial(
        learning_rates, groups, options=options, total_steps=total_steps
    )
    # These raise before anything is computed.
    jax.eval_shape(lambda: rates_at(0))
    trainable(groups.tree, groups, options.frozen_blocks)
    adam = moments.scale_by_adam(
        beta1=options.beta1,
        beta2=options.beta2,
        eps=options.eps,
        moments_dtype=options.moments_dtype,
    )
    clip = optax.clip_by_global_norm(options.clip_norm)

    def init(params: PyTree) -> optax.OptState:
        return adam.init(trainable(params, groups, options.frozen_blocks))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError("weight decay needs tx.update(gradients, state, params)")
        assert isinstance(state, optax.ScaleByAdamState)
        # Adam's counter is the only one, so rates and bias correction can't drift
        # apart when a checkpoint is restored.
        rates = rates_at(jnp.asarray(state.count))
        rates = trainable(rates, groups, options.frozen_blocks)
        params = trainable(params, groups, options.frozen_blocks)
        updates, _ = clip.update(updates, clip.init(updates))
        updates, state = adam.update(updates, state)
        updates = jax.tree.map(
            lambda update, param, rate: -rate * (update + options.weight_decay * param),
            updates,
            params,
            rates,
        )
        return updates, state

    return optax.GradientTransformation(init, update)
