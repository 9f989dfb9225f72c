"""Chooses the kernel that computes unmasked attention on the devices of a program.

Legend: B batch, R rows that attend, N tokens, M tokens with padding, heads, Dh channels
of a head.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from eomt_jax.models.kernels import cudnn_attention, splash_attention
from eomt_jax.models.kernels.cudnn_attention import attend_by_cudnn
from eomt_jax.models.kernels.splash_attention import attend_by_splash
from eomt_jax.models.kernels.xla_attention import attend, attend_on_cpu
from eomt_jax.parallel.mesh import BATCH_AXES
from eomt_jax.parallel.partition import computing_mesh
from eomt_jax.parallel.platform import Platform, current_platform


def _no_padding(num_tokens: int) -> int:
    return num_tokens


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel for unmasked attention.

    Attributes:
      name: "xla", "cpu", "cudnn" or "splash".
      attend: (query [B, R, heads, Dh], key [B, M, heads, Dh], value likewise, *,
        num_tokens) → [B, R, heads, Dh]; rows attend to the first `num_tokens` tokens.
      padded_length: function from N to M.
      splits_products: whether inference is faster if queries, keys and values come from
        three products. The kernel takes three arrays, and the result of a single
        product would have to be copied into them.
    """

    name: str
    attend: Callable[..., Float[Array, "B R heads Dh"]]
    padded_length: Callable[[int], int] = _no_padding
    splits_products: bool = False


def choose_kernel(
    *, dtype: jnp.dtype, head_dim: int, platform: Platform | None = None
) -> Kernel:
    """Returns the fastest kernel for the devices that a program is traced for.

    Args:
      dtype: type of queries, keys and values.
      head_dim: Dh.
      platform: the devices; by default those of `parallel.platform.current_platform`.
    """
    platform = platform or current_platform()
    if splash_attention.supports(platform, dtype=dtype, head_dim=head_dim):
        return Kernel(
            "splash",
            _on_each_device(attend_by_splash),
            padded_length=splash_attention.padded_length,
            splits_products=True,
        )
    if cudnn_attention.supports(platform, dtype=dtype, head_dim=head_dim):
        attend_by_one = _on_each_device(_all_tokens(attend_by_cudnn))
        return Kernel("cudnn", attend_by_one, splits_products=True)
    if platform == Platform("cpu"):
        return Kernel("cpu", _all_tokens(attend_on_cpu))
    return Kernel("xla", _all_tokens(attend))


def _all_tokens(function: Callable[..., Any]) -> Callable[..., Array]:
    """Adds `num_tokens` to the arguments of a kernel that doesn't take padding."""

    def attend_to_all(query, key, value, *, num_tokens: int) -> Array:
        assert key.shape[1] == num_tokens
        return function(query, key, value)

    return attend_to_all


def _on_each_device(function: Callable[..., Any]) -> Callable[..., Array]:
    """Runs a kernel that XLA cannot shard on each device's own images and heads."""

    def attend_split(query, key, value, *, num_tokens: int) -> Array:
        one_device = functools.partial(function, num_tokens=num_tokens)
        mesh = computing_mesh()
        if mesh is None:
            return one_device(query, key, value)
        num_heads = query.shape[2]
        head_axis = "tensor" if num_heads % mesh.shape["tensor"] == 0 else None
        spec = PartitionSpec(BATCH_AXES, None, head_axis)
        split = jax.shard_map(
            one_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
        return split(query, key, value)

    return attend_split
