"""Adam whose two moments are kept in half the memory."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float32, Key

PyTree = Any

DTYPES = ("float32", "bfloat16")


def scale_by_adam(
    *, beta1: float, beta2: float, eps: float, moments_dtype: str = "float32"
) -> optax.GradientTransformation:
    """Returns `optax.scale_by_adam` that keeps its moments in `moments_dtype`.

    A step computes in float32 all the same. bfloat16 has 8 bits: the second moment
    moves by a thousandth of itself in a step, less than half a last place, so rounded
    to the nearest it would never move again. It is rounded up or down at random, so
    that it moves rightly on average; which way is a function of the step, the same on
    any mesh.

    Args:
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      eps: added to the root of the second moment.
      moments_dtype: one of DTYPES.

    Raises:
      ValueError: an unknown dtype.
    """
    adam = optax.scale_by_adam(b1=beta1, b2=beta2, eps=eps)
    if moments_dtype not in DTYPES:
        raise ValueError(
            f"optimizer.moments_dtype = {moments_dtype!r}: there are "
            f"{', '.join(DTYPES)}"
        )
    if moments_dtype == "float32":
        return adam

    def init(params: PyTree) -> optax.ScaleByAdamState:
        state: Any = adam.init(params)
        return state._replace(
            mu=_cast(state.mu, jnp.bfloat16), nu=_cast(state.nu, jnp.bfloat16)
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        state = state._replace(
            mu=_cast(state.mu, jnp.float32), nu=_cast(state.nu, jnp.float32)
        )
        updates, state = adam.update(updates, state, params)
        leaves, treedef = jax.tree.flatten(state.nu)
        keys = jax.random.split(jax.random.key(state.count), len(leaves))
        nu = treedef.unflatten(map(round_at_random, keys, leaves))
        return updates, state._replace(mu=_cast(state.mu, jnp.bfloat16), nu=nu)

    return optax.GradientTransformation(init, update)


def round_at_random(
    key: Key[Array, ""], x: Float32[Array, "*shape"]
) -> BFloat16[Array, "*shape"]:
    """Rounds x to one of its neighbours in bfloat16, so that it is right on average."""
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    # The half that bfloat16 drops carries over as often as its share of the last place.
    bits = (bits + noise) & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
