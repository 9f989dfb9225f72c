"""Self-attention in which learned queries may be kept from seeing some patches.

Legend: B batch, N tokens, Q queries, D embedding, heads, Dh = D / heads, hw patches.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from eomt_jax.models.functions import project
from eomt_jax.models.kernels.attention import choose_kernel
from eomt_jax.models.kernels.xla_attention import attend, attention_weights
from eomt_jax.models.layers import Dense, vit_init
from eomt_jax.models.rotary import Rotation, rotate_patches

Dtype = Any

# Maps a ViT's qkv_bias to the indices of query, key and value that have a bias.
QKV_BIASES = {"all": (0, 1, 2), "no_key": (0, 2), "none": ()}
QKV_PARTS = ("query", "key", "value")


class QkvProjection(nn.Module):
    """Projects tokens to queries, keys and values of all heads.

    One matrix product makes all three, or three products if `inference_params` has
    split the matrix.

    Attributes:
      num_heads: number of heads.
      bias: a key of QKV_BIASES; a part without a bias has no parameter for it.
      dtype: type of the result.
    """

    num_heads: int
    bias: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"]
    ) -> tuple[Float[Array, "B N heads Dh"], ...]:
        embed_dim = x.shape[-1]
        heads = (self.num_heads, embed_dim // self.num_heads)
        x = jnp.asarray(x, self.dtype)
        if self.has_variable("params", "query_kernel"):
            return self.one_by_one(x)
        kernel = self.param("kernel", vit_init, (embed_dim, 3, *heads))
        out: Any = project(x, jnp.asarray(kernel, self.dtype))
        parts = QKV_BIASES[self.bias]
        if parts:
            bias = self.param("bias", nn.initializers.zeros, (len(parts), *heads))
            bias = jnp.asarray(bias)
            given = dict(zip(parts, bias))
            nothing = jnp.zeros_like(bias[0])
            bias = jnp.stack([given.get(part, nothing) for part in range(3)])
            out = out + bias.astype(out.dtype)
        return tuple(jnp.moveaxis(out, 2, 0))

    def one_by_one(
        self, x: Float[Array, "B N D"]
    ) -> tuple[Float[Array, "B N heads Dh"], ...]:
        """Returns the projections, with the split matrices of `inference_params`."""
        batch, num_tokens, embed_dim = x.shape
        outs = []
        for part in QKV_PARTS:
            kernel: Any = self.get_variable("params", f"{part}_kernel")
            matrix = jnp.asarray(kernel, self.dtype).reshape(embed_dim, -1)
            out: Any = project(x, matrix)
            bias: Any = self.get_variable("params", f"{part}_bias")
            if bias is not None:
                out = out + jnp.asarray(bias, self.dtype).reshape(-1)
            # Without the barrier a GPU's compiler would join the products of x to one.
            x, out = jax.lax.optimization_barrier((x, out))
            outs.append(out.reshape(batch, num_tokens, *kernel.shape[1:]))
        return tuple(outs)


class Attention(nn.Module):
    """Multi-head self-attention over queries, prefix tokens and patches; LayerScale.

    `patch_mask` only keeps queries from attending to patches. So the rows of queries,
    which are the first, are computed with a mask, and the many rows of prefix and
    patches without one, for which every platform has a kernel.

    If a caller collects "intermediates", a call with a mask leaves there `of_queries`,
    the weights of the queries' attention to the patches, averaged over the heads.

    Attributes:
      num_heads: number of heads.
      qkv_bias: see QkvProjection.
      dtype: type of activations.
    """

    num_heads: int
    qkv_bias: str = "all"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        scale: Float[Array, " D"] | None,
        patch_mask: Bool[Array, "B Q hw"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Array, "B N D"]:
        batch, num_tokens, embed_dim = x.shape
        kernel = choose_kernel(
            dtype=jnp.dtype(self.dtype), head_dim=embed_dim // self.num_heads
        )
        padding = kernel.padded_length(num_tokens) - num_tokens
        x = jnp.pad(x, ((0, 0), (0, padding), (0, 0)))
        projection = QkvProjection(
            self.num_heads, bias=self.qkv_bias, dtype=self.dtype, name="qkv"
        )
        query, key, value = projection(x)
        if rotation is not None:
            query = rotate_patches(query, rotation, num_tokens=num_tokens)
            key = rotate_patches(key, rotation, num_tokens=num_tokens)
        attend_unmasked = functools.partial(kernel.attend, num_tokens=num_tokens)
        if patch_mask is None:
            out = attend_unmasked(query, key, value)
        else:
            num_queries, num_patches = patch_mask.shape[1:]
            always_open = jnp.ones(
                (batch, num_queries, num_tokens - num_patches), dtype=bool
            )
            mask = jnp.concatenate([always_open, patch_mask], axis=-1)
            rows, tokens = query[:, :num_queries], key[:, :num_tokens]
            masked = attend(rows, tokens, value[:, :num_tokens], mask)
            if self.is_mutable_collection("intermediates"):
                weights = attention_weights(rows, tokens, mask).mean(axis=1)
                self.sow("intermediates", "of_queries", weights[..., -num_patches:])
            others = attend_unmasked(query[:, num_queries:], key, value)
            out = jnp.concatenate([masked, others], axis=1)
        out_layer = Dense(embed_dim, num_axes=2, dtype=self.dtype, name="out")
        return out_layer(out[:, :num_tokens], scale)
