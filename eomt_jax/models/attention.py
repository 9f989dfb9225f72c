"""Self-attention in which some query rows may be closed to some patches.

Legend: B batch, N tokens, Q queries, D embedding, heads, Dh = D / heads, hw patches.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float

from eomt_jax.models.layers import vit_init
from eomt_jax.models.rotary import Rotation, rotate_patches

Dtype = Any


def attend(
    query: Float[Array, "B R heads Dh"],
    key: Float[Array, "B N heads Dh"],
    value: Float[Array, "B N heads Dh"],
    mask: Bool[Array, "B R N"] | None = None,
) -> Float[Array, "B R heads Dh"]:
    """Scaled dot-product attention, softmax in float32; False in `mask` closes."""
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum(
        "brnd,bknd->bnrk", query * scale, key, preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    probs = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bnrk,bknd->brnd", probs, value)


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
        out = jnp.einsum("bnd,dchk->bnchk", x, kernel)
        parts = QKV_BIASES[self.bias]
        if not parts:
            return out
        bias = self.param("bias", nn.initializers.zeros, (len(parts), *heads))
        given = dict(zip(parts, bias))
        nothing = jnp.zeros_like(bias[0])
        bias = jnp.stack([given.get(part, nothing) for part in range(3)])
        return out + bias.astype(out.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over queries, prefix tokens and patches.

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
        return nn.DenseGeneral(
            embed_dim, axis=(-2, -1), kernel_init=vit_init, dtype=self.dtype, name="out"
        )(out)
