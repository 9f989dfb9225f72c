"""ViT-Adapter: feature maps of four scales from a plain ViT and convolutions beside it.

A convolutional network makes maps of 1/8, 1/16 and 1/32 of the image, which are flattened
to one row of pixels. Four times, the ViT's patches read from them before some of its
blocks, and they read from the patches afterwards. Source: arXiv 2205.08534,
czczup/ViT-Adapter@fd64a51; prefix tokens as in facebookresearch/dinov2@b8931f7.

Legend: B batch, C channels, D embedding, H W pixels, h w a map's rows and columns.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from eomt_jax.models.adapter_layers import (
    LAYER_RULES,
    Extractor,
    Injector,
    split_levels,
)
from eomt_jax.models.batch_norm import BatchNorm, keep_statistics
from eomt_jax.models.layers import Dense
from eomt_jax.models.mask2former.deformable_attention import DeformableAttention
from eomt_jax.models.scale_blocks import TransposedConv2x2
from eomt_jax.models.vit import ViT
from eomt_jax.ops.resize import bilinear_resize_maps
from eomt_jax.parallel.partition import PartitionRules, sharded_block, split_rows

Dtype = Any
Maps = tuple[Array, ...]

ADAPTER_RULES = PartitionRules(
    others=(
        (r"prior/\w+/conv/kernel", (None, None, None, "fsdp")),
        (r"projection_\d+/kernel", ("fsdp", None)),
        (r"projection_\d+/bias", (None,)),
        (r"upscale/kernel", ("fsdp", None, None, "tensor")),
        (r"upscale/bias", ("tensor",)),
        (r"level_embedding", (None, "fsdp")),
        (r"norm(_\d+)?/(scale|bias)", (None,)),
    ),
    blocks=LAYER_RULES,
)

# Pixels of the image beside one pixel of each map.
STRIDES = (4, 8, 16, 32)
NUM_INTERACTIONS = 4
# The last interaction has more extractors than one.
NUM_EXTRACTORS = NUM_INTERACTIONS + 2

_conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ViTAdapter(nn.Module):
    """Turns images into maps of 1/4, 1/8, 1/16 and 1/32, around the blocks of a ViT.

    The ViT's blocks are split evenly between the four interactions. Its final norm isn't
    applied.

    Attributes:
      num_heads: heads of deformable attention.
      value_ratio: width of its values relative to D.
      num_points: points that each of its heads reads on each map.
      conv_dim: channels of the first convolutions.
      mlp_ratio: hidden width of the extractors' feed-forward relative to D.
      dtype: type of activations; parameters, norms and points stay float32.
      remat: compute the convolutions, injectors and extractors again in the backward
        pass instead of keeping what they compute.
    """

    num_heads: int
    value_ratio: float = 0.5
    num_points: int = 4
    conv_dim: int = 64
    mlp_ratio: float = 0.25
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.nowrap
    def check(self, vit: ViT) -> None:
        """Raises ValueError for a ViT whose images or width don't fit the adapter."""
        if any(side % STRIDES[-1] for side in vit.image_size):
            raise ValueError(
                f"image_size (height, width) = {tuple(vit.image_size)}: the adapter's "
                f"maps need multiples of {STRIDES[-1]} pixels."
            )
        dim = vit.embed_dim
        value_dim, mlp_dim = dim * self.value_ratio, dim * self.mlp_ratio
        if value_dim % self.num_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} and value_ratio = {self.value_ratio} of "
                f"the adapter: the heads can't share {value_dim:g} channels, which are "
                f"embed_dim {dim} · value_ratio; choose a number of heads that divides "
                "them."
            )
        if mlp_dim % 1:
            raise ValueError(
                f"mlp_ratio = {self.mlp_ratio} of the adapter: embed_dim {dim} · "
                f"mlp_ratio = {mlp_dim:g} is no whole number of channels."
            )

    def __call__(
        self, vit: ViT, images: UInt8[Array | np.ndarray, "B H W 3"], train: bool
    ) -> Maps:
        """Returns the maps of 1/4, 1/8, 1/16 and 1/32; all have D channels.

        Args:
          vit: a ViT, bound to its parameters.
          images: RGB of the ViT's image_size.
          train: whether batch statistics are those of these images, and update the
            running ones.

        Raises:
          ValueError: the sizes of image, ViT and adapter don't fit.
        """
        self.check(vit)
        return self.maps(vit, vit.normalize(images), train)

    @nn.compact
    def maps(self, vit: ViT, pixels: Float[Array, "B H W 3"], train: bool) -> Maps:
        """Returns the maps of normalised images; see `__call__`."""
        batch, height, width, _ = pixels.shape
        dim = vit.embed_dim
        sizes = tuple((height // stride, width // stride) for stride in STRIDES)
        prior: Any = SpatialPrior
        if self.remat:
            prior = nn.remat(prior, policy=keep_statistics, static_argnums=(2,))
        attention = functools.partial(
            DeformableAttention,
            self.num_heads,
            num_points=self.num_points,
            value_ratio=self.value_ratio,
            dtype=self.dtype,
            name="deformable",
        )

        def layer(module: type[nn.Module], name: str, **fields: Any) -> Any:
            module = sharded_block(
                module, rules=LAYER_RULES, dtype=self.dtype, remat=self.remat
            )
            fields |= {"grid_size": vit.grid_size, "sizes": sizes[1:]}
            return module(attention=attention, dtype=self.dtype, name=name, **fields)

        first, *levels = prior(dim, self.conv_dim, self.dtype, name="prior")(
            pixels, train
        )
        embedding = self.param("level_embedding", nn.initializers.normal(1.0), (3, dim))
        context = jnp.concatenate(
            [
                level.reshape(batch, -1, dim) + row.astype(self.dtype)
                for level, row in zip(levels, jnp.asarray(embedding), strict=True)
            ],
            axis=1,
        )

        tokens, rotation = vit.tokens(pixels), vit.rotation()
        kept = []
        for i in range(NUM_INTERACTIONS):
            prefix, patches = jnp.split(tokens, [vit.num_prefix_tokens], axis=1)
            patches = layer(Injector, f"injector_{i}")(patches, context)
            tokens = jnp.concatenate([prefix, patches], axis=1)
            for j in blocks_of(i, vit.depth):
                tokens = vit.blocks[j](tokens, None, rotation)
            patches = tokens[:, vit.num_prefix_tokens :]
            kept.append(patches.reshape(batch, *vit.grid_size, dim))
            last = i + 1 == NUM_INTERACTIONS
            for j in range(i, NUM_EXTRACTORS if last else i + 1):
                mlp_dim = int(dim * self.mlp_ratio)
                extractor = layer(Extractor, f"extractor_{j}", mlp_dim=mlp_dim)
                context = extractor(context, patches)
        if self.is_initializing():
            # It isn't applied, but every network with this ViT has all of its parameters.
            vit.norm(tokens)

        levels = split_levels(context, sizes[1:])
        upscale = TransposedConv2x2(
            nn.initializers.normal(math.sqrt(2 / (4 * dim))),
            nn.initializers.zeros,
            dtype=self.dtype,
            name="upscale",
        )
        maps = [first + upscale(levels[0]), *levels]
        return tuple(
            BatchNorm(dtype=self.dtype, name=f"norm_{stride}")(
                level + bilinear_resize_maps(patches, size), train
            )
            for level, patches, size, stride in zip(maps, kept, sizes, STRIDES)
        )


def blocks_of(interaction: int, depth: int) -> range:
    """Returns the numbers of the blocks in one interaction, an even share of `depth`."""
    first, end = (depth * i // NUM_INTERACTIONS for i in (interaction, interaction + 1))
    return range(first, end)


class SpatialPrior(nn.Module):
    """Turns normalised images into maps of 1/4, 1/8, 1/16 and 1/32 by convolutions."""

    dim: int
    conv_dim: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels: Float[Array, "B H W 3"], train: bool) -> Maps:
        def conv(x: Array, factor: int, stride: int, name: str) -> Array:
            module = ConvNormRelu(factor * self.conv_dim, stride, self.dtype, name=name)
            return module(x, train)

        x = conv(split_rows(pixels), 1, 2, "stem_0")
        x = conv(x, 1, 1, "stem_1")
        x = conv(x, 1, 1, "stem_2")
        padding: Any = ((1, 1), (1, 1))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=padding)
        maps = [x]
        for factor, stride in zip((2, 4, 4), STRIDES[1:]):
            maps.append(conv(maps[-1], factor, 2, f"stage_{stride}"))
        return tuple(
            Dense(
                self.dim,
                kernel_init=_conv_init,
                dtype=self.dtype,
                name=f"projection_{stride}",
            )(x)
            for x, stride in zip(maps, STRIDES, strict=True)
        )


class ConvNormRelu(nn.Module):
    """3×3 convolution without bias, batch normalisation and ReLU."""

    features: int
    stride: int
    dtype: Dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool
    ) -> Float[Array, "B h w D"]:
        x = nn.Conv(
            self.features,
            (3, 3),
            strides=self.stride,
            padding=1,
            use_bias=False,
            kernel_init=_conv_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train))
