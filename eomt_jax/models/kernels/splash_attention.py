"""Attention on TPUs by JAX's Pallas kernel "splash", which keeps logits on the chip.

Legend: B batch, R rows that attend, N tokens, heads, Dh channels of a head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as splash_mask,
)
from jaxtyping import Array, Float

from eomt_jax.parallel.platform import Platform

_BLOCK = 128  # rows of one block: a TPU's tile, and the backward pass takes no other

# Numbers of tokens whose keys and values fit into the chip's memory (16 MB on v4 and
# v5e): in the gradient of keys and values, which also needs float32 sums, and
# elsewhere.
_MOST_IN_GRADIENT = 2048
_MOST = 8192


def supports(platform: Platform, *, dtype: jnp.dtype, head_dim: int) -> bool:
    """Returns whether the kernel takes these devices and activations."""
    return platform.name == "tpu" and dtype == jnp.bfloat16 and head_dim % 64 == 0


def padded_length(num_tokens: int) -> int:
    """Returns M, to which N tokens are padded: blocks of equal size."""
    multiple = _BLOCK * _num_parts(num_tokens)
    return num_tokens + -num_tokens % multiple


def _num_parts(num_tokens: int) -> int:
    """Returns the number of blocks of tokens in the gradient, the same for N and M."""
    return -(-num_tokens // _MOST_IN_GRADIENT)


def attend_by_splash(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B M heads Dh"],
    value: Float[Array, "B M heads Dh"],
    *,
    num_tokens: int,
    interpret: bool = False,
) -> Float[Array, "B R heads Dh"]:
    """Returns scaled dot-product attention of all rows to the first tokens.

    Args:
      query: queries of the rows; they are padded to whole blocks here.
      key: keys of all tokens and padding; M is `padded_length(num_tokens)`. The caller
        pads the tokens before they become keys and values, which is one copy instead of
        several.
      value: values of all tokens and padding.
      num_tokens: N; tokens from there on are padding.
      interpret: runs the kernel without a TPU, for tests.
    """
    num_rows, num_heads = query.shape[1:3]
    padding = -num_rows % _BLOCK
    query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
    query = query * query.shape[-1] ** -0.5
    kernel = _kernel(num_heads, query.shape[1], key.shape[1], interpret)
    # Rows attend to tokens of their own segment. All rows, also padding, are in the
    # segment of the real tokens, since a row that attends to nothing is not finite.
    segments = splash.SegmentIds(
        q=jnp.zeros(query.shape[1], jnp.int32),
        kv=(jnp.arange(key.shape[1]) >= num_tokens).astype(jnp.int32),
    )
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    out: Any = jax.vmap(kernel, in_axes=(0, 0, 0, None))(query, key, value, segments)
    return out.swapaxes(1, 2)[:, :num_rows]


def _kernel(num_heads: int, num_rows: int, num_tokens: int, interpret: bool):
    """Returns the kernel for padded rows and tokens."""
    mask = splash_mask.MultiHeadMask(
        [splash_mask.FullMask((num_rows, num_tokens))] * num_heads
    )
    part = num_tokens // _num_parts(num_tokens)
    block = num_tokens if num_tokens <= _MOST else part
    blocks = splash.BlockSizes(
        block_q=_BLOCK,
        block_kv=block,
        block_q_dkv=_BLOCK,
        block_kv_dkv=part,
        block_q_dq=_BLOCK,
        block_kv_dq=block,
    )
    make = functools.partial(splash.make_splash_mha, head_shards=1, q_seq_shards=1)
    return make(mask, block_sizes=blocks, interpret=interpret)
