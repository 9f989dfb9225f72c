"""AdamW with one learning rate for each parameter.

Source of the recipe: EoMT, tue-mps/eomt@7bd19dd, training/lightning_module.py.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eomt_jax.training import moments, schedules

PyTree = Any


@dataclasses.dataclass(frozen=True)
class LeafRate:
    """Which schedule one parameter follows, and its factor of layer-wise decay."""

    in_vit: bool
    multiplier: float


def leaf_path(path: tuple[Any, ...]) -> str:
    """`vit/block_0/norm1/scale` from one of JAX's key paths."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def trainable(params: PyTree, frozen_blocks: int = 0) -> PyTree:
    """The parameters that are trained, as a tree without the others.

    Args:
      params: an EoMT's parameters, their shapes, or anything in a tree like theirs.
      frozen_blocks: how many of the ViT's first blocks rest, and with them patch
        embedding, position embedding and prefix tokens; -1 freezes the whole ViT, its
        final norm included. 0 freezes nothing.

    Raises:
      ValueError: the ViT has fewer blocks.
    """
    if not frozen_blocks:
        return params
    blocks = [name for name in params["vit"] if re.fullmatch(r"block_\d+", name)]
    if not -1 <= frozen_blocks <= len(blocks):
        raise ValueError(
            f"optimizer.frozen_blocks = {frozen_blocks}: the ViT has {len(blocks)} "
            "blocks; give a number from 0 to that, or -1 for the whole ViT"
        )
    if frozen_blocks == -1:
        return {name: part for name, part in params.items() if name != "vit"}
    kept = {f"block_{i}" for i in range(frozen_blocks, len(blocks))} | {"norm"}
    vit = {name: part for name, part in params["vit"].items() if name in kept}
    return {**params, "vit": vit}


def merge(params: PyTree, part: PyTree) -> PyTree:
    """`params` with what `trainable` left of them replaced by `part`."""
    vit = {**params["vit"], **part.get("vit", {})}
    return {**params, **part, "vit": vit}


def leaf_rates(
    params: PyTree, *, layer_decay: float, undecayed_blocks: int = 0
) -> PyTree:
    """The LeafRate of every parameter, in a tree like `params`.

    Of L ViT blocks, block b takes layer_decay^(L − 1 − b); patch embedding, position
    embedding and prefix tokens count as block 0; the final norm is not decayed.

    Args:
      params: an EoMT's parameters, or their shapes.
      layer_decay: factor from one block to the one below it.
      undecayed_blocks: so many of the last blocks are not decayed either; those below
        them keep their exponents.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    paths = [leaf_path(path) for path, _ in leaves]
    blocks = [re.match(r"vit/block_(\d+)/", path) for path in paths]
    if not any(blocks):
        raise ValueError(
            "no parameter is named vit/block_…: layer-wise decay wants an EoMT's "
            f"parameters, got {paths[:3]} …"
        )
    depth = 1 + max(int(block[1]) for block in blocks if block)
    if not 0 <= undecayed_blocks <= depth:
        raise ValueError(
            f"optimizer.undecayed_blocks = {undecayed_blocks}: the ViT has {depth} "
            "blocks; give a number from 0 to that"
        )

    def rate(path: str, block: re.Match[str] | None) -> LeafRate:
        if not path.startswith("vit/"):
            return LeafRate(in_vit=False, multiplier=1.0)
        if path.startswith("vit/norm/"):
            return LeafRate(in_vit=True, multiplier=1.0)
        index = int(block[1]) if block else 0
        if block and index >= depth - undecayed_blocks:
            return LeafRate(in_vit=True, multiplier=1.0)
        return LeafRate(in_vit=True, multiplier=layer_decay ** (depth - 1 - index))

    return treedef.unflatten([rate(p, b) for p, b in zip(paths, blocks)])


def learning_rates(
    params: PyTree,
    step: schedules.Step,
    *,
    total_steps: int,
    learning_rate: float = 1e-4,
    layer_decay: float = 0.8,
    undecayed_blocks: int = 0,
    warmup_head: int = 500,
    warmup_vit: int = 1000,
    published_steps: int = 0,
    power: float = 0.9,
) -> PyTree:
    """Learning rate of every parameter at one step, in a tree like `params`."""
    head_rate, vit_rate = schedules.learning_rate_schedules(
        total_steps=total_steps,
        learning_rate=learning_rate,
        warmup_head=warmup_head,
        warmup_vit=warmup_vit,
        published_steps=published_steps,
        power=power,
    )
    head, vit = head_rate(step), vit_rate(step)
    return jax.tree.map(
        lambda leaf: (vit if leaf.in_vit else head) * leaf.multiplier,
        leaf_rates(params, layer_decay=layer_decay, undecayed_blocks=undecayed_blocks),
    )


def create_optimizer(
    params: PyTree,
    *,
    total_steps: int,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.05,
    layer_decay: float = 0.8,
    undecayed_blocks: int = 0,
    clip_norm: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    moments_dtype: str = "float32",
    warmup_head: int = 500,
    warmup_vit: int = 1000,
    published_steps: int = 0,
    power: float = 0.9,
    frozen_blocks: int = 0,
) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW with decoupled decay on every parameter.

    While the ViT's rate is 0 its gradients still count in the clip's norm and move
    Adam's moments. The decay is multiplied by each parameter's own rate, as in
    torch.optim.AdamW. Frozen parameters have no part in any of it: no gradient, no
    moments, no decay, no share in the norm.

    Args:
      params: an EoMT's parameters, or their shapes: checked, not kept.
      total_steps: length of the run; rates are 0 from there on.
      learning_rate: peak rate outside the ViT and of its last block.
      weight_decay: coefficient of the decoupled decay.
      layer_decay: see `leaf_rates`.
      undecayed_blocks: see `leaf_rates`.
      clip_norm: largest global norm of all gradients together.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      eps: added to the root of the second moment.
      moments_dtype: see `moments.scale_by_adam`.
      warmup_head: see `schedules.learning_rate_schedules`, like the rest.
      warmup_vit: steps.
      published_steps: steps.
      power: exponent of the polynomial decay.
      frozen_blocks: see `trainable`.

    Returns:
      A transformation whose state is Adam's: one step counter and two moments. Its
      functions take all parameters; gradients, moments and updates are trees of what
      `trainable` leaves of them.
    """
    rate_options: dict[str, Any] = {
        "total_steps": total_steps,
        "learning_rate": learning_rate,
        "layer_decay": layer_decay,
        "undecayed_blocks": undecayed_blocks,
        "warmup_head": warmup_head,
        "warmup_vit": warmup_vit,
        "published_steps": published_steps,
        "power": power,
    }
    jax.eval_shape(lambda: learning_rates(params, 0, **rate_options))
    trainable(params, frozen_blocks)  # raises before anything is computed
    adam = moments.scale_by_adam(
        beta1=beta1, beta2=beta2, eps=eps, moments_dtype=moments_dtype
    )
    clip = optax.clip_by_global_norm(clip_norm)

    def init(params: PyTree) -> optax.OptState:
        return adam.init(trainable(params, frozen_blocks))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError("weight decay needs tx.update(gradients, state, params)")
        assert isinstance(state, optax.ScaleByAdamState)
        # Adam's counter is the only one, so rates and bias correction can't drift
        # apart when a checkpoint is restored.
        rates = learning_rates(params, jnp.asarray(state.count), **rate_options)
        rates = trainable(rates, frozen_blocks)
        params = trainable(params, frozen_blocks)
        updates, _ = clip.update(updates, clip.init(updates))
        updates, state = adam.update(updates, state)
        updates = jax.tree.map(
            lambda update, param, rate: -rate * (update + weight_decay * param),
            updates,
            params,
            rates,
        )
        return updates, state

    return optax.GradientTransformation(init, update)
