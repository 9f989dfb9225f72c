"""Self-attention in which some query rows may be closed to some patches.

Legend: B batch, N tokens, Q queries, R rows that attend, D embedding, heads,
Dh = D / heads, hw patches.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float

from eomt_jax.models.layers import Dense, project, vit_init
from eomt_jax.models.rotary import Rotation, rotate_patches

Dtype = Any

# Logits of one image and head, rows × tokens, that exist at a time: all of them at 640
# pixels (1605 × 1805); at 1280 all would take 4 GB an image and block of ViT-g.
MAX_LOGITS = 2**22


@jax.custom_vjp
def attend(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
    mask: Bool[Array, "B R N"] | None = None,
) -> Float[Array, "B R heads Dh"]:
    """Scaled dot-product attention, softmax in float32; False in `mask` closes.

    Above MAX_LOGITS the rows go in equal chunks, one after the other. A row's numbers
    are the same either way.

    Probabilities are not kept for the backward pass, which computes them again: to
    write and to read them takes longer than the product that they come from.
    """
    return _attend(query, key, value, mask)


def _forward(query, key, value, mask):
    return _attend(query, key, value, mask), (query, key, value, mask)


def _backward(inputs, gradient):
    query, key, value, mask = inputs
    attend_masked = functools.partial(_attend, mask=mask)
    return *jax.vjp(attend_masked, query, key, value)[1](gradient), None


attend.defvjp(_forward, _backward)


def _attend(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
    mask: Bool[Array, "B R N"] | None,
) -> Float[Array, "B R heads Dh"]:
    # Heads first, so that each product is of matrices as they lie in memory.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    mask = None if mask is None else mask[:, None]
    num_rows, num_tokens = query.shape[2], key.shape[2]
    num_chunks = -(-num_rows * num_tokens // MAX_LOGITS)
    if num_chunks == 1:
        return _attend_rows(query, key, value, mask).swapaxes(1, 2)
    # Whole tiles of an accelerator.
    chunk_rows = -(-num_rows // num_chunks // 8) * 8
    return _attend_chunks(query, key, value, mask, chunk_rows).swapaxes(1, 2)


def _attend_chunks(
    query: Float[Array, "B heads R Dh"],
    key: Float[Array, "B heads N Dh"],
    value: Float[Array, "B heads N Dh"],
    mask: Bool[Array, "B 1 R N"] | None,
    chunk_rows: int,
) -> Float[Array, "B heads R Dh"]:
    batch, num_heads, num_rows, head_dim = query.shape
    # Their gradients are summed over the chunks, which bfloat16 is too coarse for.
    wide_key, wide_value = key.astype(jnp.float32), value.astype(jnp.float32)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attend_chunk(rows):
        query, mask = rows
        key_value = wide_key.astype(query.dtype), wide_value.astype(value.dtype)
        return _attend_rows(query, *key_value, mask)

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, -num_rows % chunk_rows), (0, 0)))
        x = x.reshape(*x.shape[:2], -1, chunk_rows, x.shape[-1])
        return jnp.moveaxis(x, 2, 0)

    out = jax.lax.map(attend_chunk, jax.tree.map(split, (query, mask)))
    out = jnp.moveaxis(out, 0, 2).reshape(batch, num_heads, -1, head_dim)
    return out[:, :, :num_rows]


def _attend_rows(
    query: Float[Array, "B heads R Dh"],
    key: Float[Array, "B heads N Dh"],
    value: Float[Array, "B heads N Dh"],
    mask: Bool[Array, "B 1 R N"] | None,
) -> Float[Array, "B heads R Dh"]:
    scale = query.shape[-1] ** -0.5
    logits = jnp.matmul(
        query * scale, key.swapaxes(2, 3), preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    probs = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.matmul(probs, value)


# Which of query, key and value have a bias.
QKV_BIASES = {"all": (0, 1, 2), "no_key": (0, 2), "none": ()}


class QkvProjection(nn.Module):
    """Tokens to queries, keys and values of all heads, by one product.

    Attributes:
      num_heads: heads.
      bias: a key of QKV_BIASES; a part without a bias has no parameter for it.
      dtype: of the result.
    """

    num_heads: int
    bias: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N 3 heads Dh"]:
        embed_dim = x.shape[-1]
        heads = (self.num_heads, embed_dim // self.num_heads)
        kernel = self.param("kernel", vit_init, (embed_dim, 3, *heads))
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        out: Any = project(x, kernel)
        parts = QKV_BIASES[self.bias]
        if not parts:
            return out
        bias = self.param("bias", nn.initializers.zeros, (len(parts), *heads))
        given = dict(zip(parts, bias))
        nothing = jnp.zeros_like(bias[0])
        bias = jnp.stack([given.get(part, nothing) for part in range(3)])
        return out + bias.astype(out.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over queries, prefix tokens and patches, scaled.

    `patch_mask` closes pairs of a query and a patch and nothing else. So only the
    query rows, the first in the sequence, take the masked path, and the many rows of
    prefix and patches keep the plain one.

    Attributes:
      num_heads: heads.
      qkv_bias: see QkvProjection.
      dtype: of activations.
    """

    num_heads: int
    qkv_bias: str = "all"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        scale: Float[Array, " D"],
        patch_mask: Bool[Array, "B Q hw"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Array, "B N D"]:
        batch, num_tokens, embed_dim = x.shape
        qkv = QkvProjection(
            self.num_heads, bias=self.qkv_bias, dtype=self.dtype, name="qkv"
        )(x)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        if rotation is not None:
            query = rotate_patches(query, rotation)
            key = rotate_patches(key, rotation)
        if patch_mask is None:
            out = attend(query, key, value)
        else:
            num_queries, num_patches = patch_mask.shape[1:]
            always_open = jnp.ones(
                (batch, num_queries, num_tokens - num_patches), dtype=bool
            )
            mask = jnp.concatenate([always_open, patch_mask], axis=-1)
            out = jnp.concatenate(
                [
                    attend(query[:, :num_queries], key, value, mask),
                    attend(query[:, num_queries:], key, value),
                ],
                axis=1,
            )
        return Dense(embed_dim, num_axes=2, dtype=self.dtype, name="out")(out, scale)
