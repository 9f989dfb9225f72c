"""Self-attention in which some query rows may be closed to some patches.

Legend: B batch, N tokens, Q queries, R rows that attend, D embedding, heads,
Dh = D / heads, hw patches.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float

from eomt_jax.models.functions import project
from eomt_jax.models.layers import Dense, vit_init
from eomt_jax.models.rotary import Rotation, rotate_patches

Dtype = Any

# Logits of one image and head, rows × tokens, that exist at a time: all of them at 640
# pixels (1605 × 1805); at 1280 all would take 4 GB an image and block of ViT-g.
MAX_LOGITS = 2**22

# exp of it, summed over a hundred thousand tokens, is still a number of float32.
MAX_EXPONENT = 75.0


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

    The backward pass computes the weights of all pairs again, from two numbers that
    are kept for each row: to write and to read them takes as long as the product that
    they come from, and more memory than all else in a block.
    """
    return _forward(query, key, value, mask)[0]


def attend_on_cpu(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
) -> Float[Array, "B R heads Dh"]:
    """`attend` without the rows' maxima, where they aren't needed: a tenth faster.

    Softmax is the same of keys less their mean. Then each row's logits are 0 on
    average, so that its exponentials don't all vanish, and none of them exceeds the
    length of the longest query times that of the longest key. Where that is at most
    MAX_EXPONENT none overflows. (A DINOv2 ViT-S on photographs of COCO at 640 pixels:
    in all blocks but the first. With the mean, in eight of twelve.)

    For a forward pass; an accelerator would have to wait for which it is.
    """
    key = key - key.mean(1, keepdims=True)
    longest_query, longest_key = (
        jnp.linalg.norm(x.astype(jnp.float32), axis=-1).max((0, 1))
        for x in (_scaled(query), key)
    )

    def attend_unshifted(query, key, value):
        return _forward(query, key, value, None, shifted=False)[0]

    small = (longest_query * longest_key).max() <= MAX_EXPONENT
    return jax.lax.cond(small, attend_unshifted, attend, query, key, value)


def _forward(query, key, value, mask, shifted=True):
    # Heads first, so that each product is of matrices as they lie in memory.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    mask = None if mask is None else mask[:, None]

    def attend_chunk(_, rows):
        query, mask = rows
        logits = _logits(query, key, mask)
        highest = logits.max(-1, keepdims=True)
        if not shifted:
            highest = jnp.zeros_like(highest)
        weights = jnp.exp(logits - highest)
        total = weights.sum(-1, keepdims=True)
        out = jnp.matmul((weights / total).astype(value.dtype), value)
        return None, (out, highest, 1.0 / total)

    rows = query, mask
    _, of_rows = _over_chunks(attend_chunk, None, rows, num_tokens=key.shape[2])
    return of_rows[0].swapaxes(1, 2), (rows, of_rows, key, value)


def _backward(kept, gradient):
    # Or the compiler would see what it has computed before, and keep it.
    rows, of_rows, key, value = jax.lax.optimization_barrier(kept)
    rows = (*rows, *of_rows, gradient.swapaxes(1, 2))

    def chunk_gradients(sums, rows):
        query, mask, out, highest, inverse_sum, gradient = rows
        weights = jnp.exp(_logits(query, key, mask) - highest)
        gradient = gradient.astype(jnp.float32) * inverse_sum
        mean = (gradient * out).sum(-1, keepdims=True)
        gradient = gradient.astype(value.dtype)
        of_weights = jnp.matmul(
            gradient, value.swapaxes(2, 3), preferred_element_type=jnp.float32
        )
        of_logits = (weights * (of_weights - mean)).astype(key.dtype)
        products = (of_logits, _scaled(query)), (weights.astype(value.dtype), gradient)
        # Over the chunks they are summed, which bfloat16 is too coarse for.
        sums = tuple(
            total + jnp.matmul(x.swapaxes(2, 3), y, preferred_element_type=jnp.float32)
            for total, (x, y) in zip(sums, products)
        )
        return sums, _scaled(jnp.matmul(of_logits, key))

    zeros = jnp.zeros(key.shape, jnp.float32)
    (of_key, of_value), of_query = _over_chunks(
        chunk_gradients, (zeros, zeros), rows, num_tokens=key.shape[2]
    )
    gradients = of_query, of_key.astype(key.dtype), of_value.astype(value.dtype)
    return *(x.swapaxes(1, 2) for x in gradients), None


attend.defvjp(_forward, _backward)


def _scaled(x: Float[Array, "*shape Dh"]) -> Float[Array, "*shape Dh"]:
    return x * x.shape[-1] ** -0.5


def _logits(
    query: Float[Array, "B heads R Dh"],
    key: Float[Array, "B heads N Dh"],
    mask: Bool[Array, "B 1 R N"] | None,
) -> Float[Array, "B heads R N"]:
    logits = jnp.matmul(
        _scaled(query), key.swapaxes(2, 3), preferred_element_type=jnp.float32
    )
    if mask is None:
        return logits
    return jnp.where(mask, logits, jnp.finfo(jnp.float32).min)


def _over_chunks(
    function: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    rows: tuple[Any, ...],
    *,
    num_tokens: int,
) -> tuple[Any, Any]:
    """Scans `function` over equal chunks of rows.

    Args:
      function: see jax.lax.scan.
      carry: at first.
      rows: arrays [B, 1 or heads, R, anything], or None.
      num_tokens: that each row attends to.

    Returns:
      The last carry, and what belongs to the rows, as they lie.
    """
    num_rows = rows[0].shape[2]
    num_chunks = -(-num_rows * num_tokens // MAX_LOGITS)
    if num_chunks == 1:
        return function(carry, rows)
    # Whole tiles of an accelerator.
    chunk_rows = -(-num_rows // num_chunks // 8) * 8

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, -num_rows % chunk_rows), (0, 0)))
        x = x.reshape(*x.shape[:2], -1, chunk_rows, x.shape[-1])
        return jnp.moveaxis(x, 2, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :num_rows]

    if carry is not None:
        # A loop that begins with zeros has a TPU's compiler take the memory for them at
        # any time: that of all blocks at once.
        carry, rows = jax.lax.optimization_barrier((carry, rows))
    carry, of_rows = jax.lax.scan(function, carry, jax.tree.map(split, rows))
    return carry, jax.tree.map(join, of_rows)


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
      on_cpu: takes `attend_on_cpu` where nothing is closed.
    """

    num_heads: int
    qkv_bias: str = "all"
    dtype: Dtype = jnp.float32
    on_cpu: bool = False

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
            out = (attend_on_cpu if self.on_cpu else attend)(query, key, value)
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
