"""Feature maps of several scales, each made from a plain ViT's patches by itself.

Source: arXiv 2503.19108, section 3.2, with the scale blocks of tue-mps/eomt@7bd19dd.
Legend: B batch, D embedding, h w patch grid.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from eomt_jax.models.scale_blocks import SCALE_BLOCK_RULES, DownscaleBlock, Upscale
from eomt_jax.parallel.partition import PartitionRules

Dtype = Any

PYRAMID_RULES = PartitionRules(
    others=(
        *SCALE_BLOCK_RULES,
        (r"scale_32/conv/kernel", (None, None, "fsdp", "tensor")),
        (r"scale_32/conv/bias", ("tensor",)),
        (r"norm/(scale|bias)", (None,)),
    )
)


class Pyramid(nn.Module):
    """Turns the patch map into one map for each scale; all have D channels.

    Attributes:
      scales: which of the maps of 1/4, 1/8, 1/16 and 1/32 of the image are made. The
        patches of 16 pixels are themselves the map of scale 16.
      dtype: type of activations.
      remat: compute the maps again in the backward pass instead of keeping what lies
        between them and the patches.
    """

    scales: tuple[int, ...] = (4, 8, 16, 32)
    dtype: Dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, patches: Float[Array, "B h w D"]) -> tuple[Array, ...]:
        """Returns the maps [B, h·16/scale, w·16/scale, D], in the order of `scales`.

        Raises:
          ValueError: scale 32 is wanted, and h or w is odd.
        """
        scaled: Any = Pyramid.scaled
        if self.remat:
            scaled = nn.remat(scaled, static_argnums=(2,))
        return tuple(
            patches if scale == 16 else scaled(self, patches, scale)
            for scale in self.scales
        )

    def scaled(
        self, patches: Float[Array, "B h w D"], scale: int
    ) -> Float[Array, "B h2 w2 D"]:
        """Returns the map of one scale other than 16."""
        name = f"scale_{scale}"
        if scale < 16:
            blocks = int(math.log2(16 // scale))
            block = Upscale(blocks, dtype=self.dtype, name=name)
        else:
            _, height, width, _ = patches.shape
            if height % 2 or width % 2:
                raise ValueError(
                    f"The patch map has {height} × {width} patches, and the map of half "
                    "its size needs even numbers: choose an image_size whose height and "
                    "width are multiples of two patches (32 pixels with patch_size 16)."
                )
            block = DownscaleBlock(dtype=self.dtype, name=name)
        return block(patches).normalized()
