"""Mask2Former's pixel decoder: maps of four scales exchange what they know.

Source: arXiv 2112.01527, facebookresearch/Mask2Former@9b0651c
modeling/pixel_decoder/msdeformattn.py.

Legend: B batch, D embedding, C channels of the input, S pixels of all levels, h w map
of a level, H4 W4 map of 1/4 of the image.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from eomt_jax.models.layers import Dense, LayerNorm, ReluMlp
from eomt_jax.models.mask2former.deformable_attention import (
    DEFORMABLE_ATTENTION_RULES,
    DeformableAttention,
    pixel_centers,
)
from eomt_jax.models.mask2former.positions import sine_positions
from eomt_jax.ops.resize import bilinear_resize_maps
from eomt_jax.parallel.partition import PartitionRules, Rules, sharded_block, split_rows

Dtype = Any

LAYER_RULES: Rules = (
    *DEFORMABLE_ATTENTION_RULES,
    (r"mlp/up/kernel", ("fsdp", "tensor")),
    (r"mlp/up/bias", ("tensor",)),
    (r"mlp/down/kernel", ("tensor", "fsdp")),
    (r"mlp/down/bias", (None,)),
    (r"norm[12]/(scale|bias)", (None,)),
)
PIXEL_DECODER_RULES = PartitionRules(
    others=(
        (r"level_embedding", (None, "fsdp")),
        (r"(projection_\d+|lateral|mask_projection)/kernel", ("fsdp", None)),
        (r"smoothing/kernel", (None, None, "fsdp", None)),
        (r"(projection_\d+|mask_projection)/bias", (None,)),
        (r"(projection_\d+|lateral|smoothing)_norm/(scale|bias)", (None,)),
    ),
    blocks=LAYER_RULES,
)

_EPSILON = 1e-5
_NUM_GROUPS = 32

_xavier = nn.initializers.xavier_uniform()
# Detectron2 initialises convolutions so, and calls it Xavier's.
_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class PixelDecoder(nn.Module):
    """Turns maps of 1/4 to 1/32 into three levels for a decoder and mask features.

    The maps of 1/8, 1/16 and 1/32 pass through layers of deformable attention. The one
    of 1/4 is added to the finest of them, enlarged.

    Attributes:
      dim: D, the width of all results, a multiple of 32.
      num_heads: heads of each attention.
      mlp_dim: hidden width of each feed-forward.
      num_layers: number of layers.
      dtype: type of activations; norms, and points and weights of attention, are
        computed in float32.
      remat: compute each layer again in the backward pass instead of keeping it.
    """

    dim: int = 256
    num_heads: int = 8
    mlp_dim: int = 1024
    num_layers: int = 6
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, maps: tuple[Array, ...]
    ) -> tuple[tuple[Array, Array, Array], Float[Array, "B H4 W4 D"]]:
        """Returns the levels of 1/32, 1/16 and 1/8, each [B, h, w, D], and features.

        Args:
          maps: of 1/4, 1/8, 1/16 and 1/32 of the image, each [B, h, w, C].

        Raises:
          ValueError: the group norms or the heads don't divide D.
        """
        if self.dim % _NUM_GROUPS or self.dim % self.num_heads:
            raise ValueError(
                f"dim {self.dim} of the pixel decoder must be a multiple of its "
                f"{_NUM_GROUPS} groups and of its num_heads {self.num_heads}."
            )
        finest, *coarser = maps
        levels = coarser[::-1]
        sizes = tuple((level.shape[1], level.shape[2]) for level in levels)
        embedding = self.param(
            "level_embedding", nn.initializers.normal(1.0), (len(levels), self.dim)
        )
        tokens, positions = [], []
        for i, (level, size) in enumerate(zip(levels, sizes)):
            name = f"projection_{i}"
            level = Dense(self.dim, kernel_init=_xavier, dtype=self.dtype, name=name)(
                level
            )
            level = self.group_norm(f"{name}_norm")(level)
            tokens.append(level.reshape(len(level), -1, self.dim))
            position = sine_positions(size, self.dim) + jnp.asarray(embedding)[i]
            positions.append(position.reshape(-1, self.dim))
        x, position = jnp.concatenate(tokens, 1), jnp.concatenate(positions)
        layer = sharded_block(
            PixelDecoderLayer, rules=LAYER_RULES, dtype=self.dtype, remat=self.remat
        )
        for i in range(self.num_layers):
            x = layer(
                self.num_heads, self.mlp_dim, sizes, self.dtype, name=f"layer_{i}"
            )(x, position)
        results, first = [], 0
        for height, width in sizes:
            rows = x[:, first : first + height * width]
            results.append(rows.reshape(len(x), height, width, self.dim))
            first += height * width
        coarse, middle, fine = results
        return (coarse, middle, fine), self.mask_features(finest, fine)

    def mask_features(
        self, finest: Float[Array, "B H4 W4 C"], fine: Float[Array, "B h w D"]
    ) -> Float[Array, "B H4 W4 D"]:
        """Returns the map of 1/4 after the sum with the level of 1/8."""
        conv = functools.partial(
            nn.Conv, self.dim, use_bias=False, kernel_init=_uniform, dtype=self.dtype
        )
        enlarged = bilinear_resize_maps(fine, (finest.shape[1], finest.shape[2]))
        lateral = nn.Dense(
            self.dim,
            use_bias=False,
            kernel_init=_uniform,
            dtype=self.dtype,
            name="lateral",
        )(finest)
        x = self.group_norm("lateral_norm")(lateral) + enlarged
        x = self.group_norm("smoothing_norm")(conv((3, 3), name="smoothing")(x))
        return Dense(
            self.dim, kernel_init=_uniform, dtype=self.dtype, name="mask_projection"
        )(nn.relu(x))

    @nn.nowrap
    def group_norm(self, name: str) -> nn.GroupNorm:
        """Returns a group norm of 32 groups, with statistics in float32."""
        return nn.GroupNorm(
            _NUM_GROUPS,
            epsilon=_EPSILON,
            use_fast_variance=False,
            dtype=self.dtype,
            name=name,
        )


class PixelDecoderLayer(nn.Module):
    """Post-norm layer of deformable attention between all pixels of all levels.

    Attributes:
      num_heads: heads of the attention.
      mlp_dim: hidden width of the feed-forward.
      level_sizes: (h, w) of each level.
      dtype: type of activations.
    """

    num_heads: int
    mlp_dim: int
    level_sizes: tuple[tuple[int, int], ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B S D"], position: Float[Array, "S D"]
    ) -> Float[Array, "B S D"]:
        x = split_rows(x)
        y = DeformableAttention(self.num_heads, dtype=self.dtype, name="deformable")(
            x + position,
            x,
            reference_points=jnp.concatenate(
                [pixel_centers(size) for size in self.level_sizes]
            ),
            level_sizes=self.level_sizes,
        )
        x = LayerNorm(_EPSILON, self.dtype, name="norm1")(x + y)
        y = ReluMlp(self.mlp_dim, self.dtype, name="mlp")(x)
        return LayerNorm(_EPSILON, self.dtype, name="norm2")(x + y)
