"""Attention by XLA's own matrix products, on any device, with or without a mask.

Legend: B batch, R rows that attend, N tokens, heads, Dh channels of a head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# The most logits of one image and head, rows × tokens, that exist at a time. At 640
# pixels (1605 × 1805) these are all of them; at 1280 pixels all would take 4 GB for
# each image and block of ViT-g.
MAX_LOGITS = 2**22

# exp of this, summed over a hundred thousand tokens, is finite in float32.
MAX_EXPONENT = 75.0


@jax.custom_vjp
def attend(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
    mask: Bool[Array, "B R N"] | None = None,
) -> Float[Array, "B R heads Dh"]:
    """Returns scaled dot-product attention, with a softmax in float32.

    A row attends to a token unless `mask` is False there. Above MAX_LOGITS the rows are
    computed in equal chunks, one after the other, with the same results.

    The backward pass computes the weights of all pairs again, from two numbers that are
    kept for each row. To write the weights and to read them would take as long, and
    more memory than all else in a block.
    """
    return _forward(query, key, value, mask)[0]


def attention_weights(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    mask: Bool[Array, "B R N"],
) -> Float[Array, "B heads R N"]:
    """Returns the weights by which `attend` mixes the values, for people to look at."""
    logits = _logits(query.swapaxes(1, 2), key.swapaxes(1, 2), mask[:, None])
    return jax.nn.softmax(logits, axis=-1)


def _forward(query, key, value, mask, shifted=True):
    # Heads come first, so that each product is of contiguous matrices.
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
    # Without the barrier the compiler would recognise a value of the forward pass, and
    # store it until here.
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
        # The sums over chunks are in float32, since bfloat16 is too coarse.
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


@jax.custom_vjp
def attend_on_cpu(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
) -> Float[Array, "B R heads Dh"]:
    """Returns what `attend` does, without computing row maxima if they aren't needed.

    That is a tenth faster. The softmax doesn't change if the mean is subtracted from
    the keys. Then each row's logits are 0 on average, so that its exponentials don't
    all vanish, and no logit exceeds the length of the longest query times that of the
    longest key. If that is at most MAX_EXPONENT, no exponential overflows. (With a
    DINOv2 ViT-S on photographs of COCO at 640 pixels this holds in all blocks but the
    first; without subtracting the mean it holds in eight of twelve.)

    A forward pass with a gradient computes the maxima. An accelerator would have to
    wait for the lengths, so it doesn't use this function.
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


attend_on_cpu.defvjp(
    lambda query, key, value: _forward(query, key, value, None),
    lambda kept, gradient: _backward(kept, gradient)[:3],
)


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
      carry: the first carry.
      rows: arrays [B, 1 or heads, R, anything], or None.
      num_tokens: number of tokens that each row attends to.

    Returns:
      The last carry, and the results for the rows in their order.
    """
    num_rows = rows[0].shape[2]
    num_chunks = -(-num_rows * num_tokens // MAX_LOGITS)
    if num_chunks == 1:
        return function(carry, rows)
    # Chunks are whole tiles of an accelerator, of 8 rows.
    chunk_rows = -(-num_rows // num_chunks // 8) * 8

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, -num_rows % chunk_rows), (0, 0)))
        x = x.reshape(*x.shape[:2], -1, chunk_rows, x.shape[-1])
        return jnp.moveaxis(x, 2, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :num_rows]

    if carry is not None:
        # Without the barrier a TPU's compiler may allocate the loop's initial zeros
        # early, those of all blocks at the same time.
        carry, rows = jax.lax.optimization_barrier((carry, rows))
    carry, of_rows = jax.lax.scan(function, carry, jax.tree.map(split, rows))
    return carry, jax.tree.map(join, of_rows)
