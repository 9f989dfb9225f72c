"""Attention on NVIDIA GPUs by cuDNN, which keeps logits and weights out of memory.

Legend: B batch, R rows that attend, N tokens, heads, Dh channels of a head.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eomt_jax.parallel.platform import Platform

MAX_HEAD_DIM = 128
Implementation = Literal["xla", "cudnn"]


def supports(platform: Platform, *, dtype: jnp.dtype, head_dim: int) -> bool:
    """Returns whether cuDNN has attention for these devices and activations."""
    return (
        platform.name == "gpu"
        and platform.compute_capability >= (8, 0)
        and dtype in (jnp.bfloat16, jnp.float16)
        and head_dim % 8 == 0
        and head_dim <= MAX_HEAD_DIM
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend_by_cudnn(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
    implementation: Implementation = "cudnn",
) -> Float[Array, "B R heads Dh"]:
    """Returns scaled dot-product attention of all rows to all tokens.

    cuDNN takes any number of rows and tokens in inference. Its backward pass requires
    even numbers, so a forward pass with a gradient pads both.

    Args:
      query: queries of the rows.
      key: keys of all tokens.
      value: values of all tokens.
      implementation: see jax.nn.dot_product_attention; "xla" is for tests without a
      GPU.
    """
    return jax.nn.dot_product_attention(
        query, key, value, implementation=implementation
    )


def _forward(query, key, value, implementation):
    attend = functools.partial(attend_padded, implementation=implementation)
    return jax.vjp(attend, query, key, value)


def _backward(implementation, vjp, gradient):
    del implementation
    return vjp(gradient)


attend_by_cudnn.defvjp(_forward, _backward)


def attend_padded(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
    *,
    implementation: Implementation,
) -> Float[Array, "B R heads Dh"]:
    """Returns attention, computed with padding to even numbers of rows and tokens.

    The row of padding attends too, so that it stays finite; its gradient is 0.
    """
    batch, num_rows, _, _ = query.shape
    num_tokens = key.shape[1]
    lengths = None
    if num_tokens % 2:
        key, value = _pad_to_even(key), _pad_to_even(value)
        lengths = jnp.full(batch, num_tokens, jnp.int32)
    out = jax.nn.dot_product_attention(
        _pad_to_even(query),
        key,
        value,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return out[:, :num_rows]


def _pad_to_even(x: Float[Array, "B N heads Dh"]) -> Float[Array, "B M heads Dh"]:
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
