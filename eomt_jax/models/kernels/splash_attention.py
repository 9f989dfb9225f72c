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

BLOCK = 128
"""Rows and tokens of one block: a TPU's tiles, and the backward pass takes no other."""


def supports(platform: Platform, *, dtype: jnp.dtype, head_dim: int) -> bool:
    """Whether the kernel is made for these devices and activations."""
    return platform.name == "tpu" and dtype == jnp.bfloat16 and head_dim % 64 == 0


def attend_by_splash(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B M heads Dh"],
    value: Float[Array, "B M heads Dh"],
    *,
    num_tokens: int,
    interpret: bool = False,
) -> Float[Array, "B R heads Dh"]:
    """Scaled dot-product attention of all rows to the first tokens.

    Args:
      query: of the rows; padded here to a multiple of BLOCK where they aren't one.
      key: of all tokens and padding; M is a multiple of BLOCK. To pad the tokens before
        they become queries, keys and values takes one copy instead of three.
      value: likewise.
      num_tokens: N; tokens from there on are padding.
      interpret: runs the kernel without a TPU, for tests.
    """
    num_rows, num_heads = query.shape[1:3]
    padding = -num_rows % BLOCK
    query = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
    query = query * query.shape[-1] ** -0.5
    kernel = _kernel(num_heads, query.shape[1], key.shape[1], interpret)
    # Tokens see those of their own segment. Every row is of the real tokens' segment,
    # padding too: a row that sees nothing would not be finite.
    segments = splash.SegmentIds(
        q=jnp.zeros(query.shape[1], jnp.int32),
        kv=(jnp.arange(key.shape[1]) >= num_tokens).astype(jnp.int32),
    )
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    out: Any = jax.vmap(kernel, in_axes=(0, 0, 0, None))(query, key, value, segments)
    return out.swapaxes(1, 2)[:, :num_rows]


def _kernel(num_heads: int, num_rows: int, num_tokens: int, interpret: bool):
    """The kernel for sizes that are multiples of BLOCK."""
    mask = splash_mask.MultiHeadMask(
        [splash_mask.FullMask((num_rows, num_tokens))] * num_heads
    )
    blocks = splash.BlockSizes(
        block_q=BLOCK,
        block_kv=num_tokens,
        block_q_dkv=BLOCK,
        block_kv_dkv=num_tokens,
        block_q_dq=BLOCK,
        block_kv_dq=num_tokens,
    )
    make = functools.partial(splash.make_splash_mha, head_shards=1, q_seq_shards=1)
    return make(mask, block_sizes=blocks, interpret=interpret)
