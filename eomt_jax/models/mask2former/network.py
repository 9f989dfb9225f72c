"""Mask2Former around a plain ViT, in the steps that lead from it down to EoMT.

Source: arXiv 2112.01527 for Mask2Former, and section 3 of arXiv 2503.19108 for the steps.
Legend: B batch, Q queries, K classes, D width of the ViT, C width of the decoder, H W
pixels, L masked layers; F4 … F32 are maps at 1/4 … 1/32 of the image.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from eomt_jax.models.layers import Dense
from eomt_jax.models.mask2former.pixel_decoder import (
    PIXEL_DECODER_RULES,
    PixelDecoder,
)
from eomt_jax.models.mask2former.transformer_decoder import (
    DECODER_RULES,
    TransformerDecoder,
)
from eomt_jax.models.network import Network, ParameterGroup, ParameterGroups
from eomt_jax.models.pyramid import PYRAMID_RULES, Pyramid
from eomt_jax.models.vit import VIT_RULES, ViT
from eomt_jax.models.vit_adapter import ADAPTER_RULES, ViTAdapter
from eomt_jax.parallel.partition import PartitionRules
from eomt_jax.types import Outputs

FEATURES = ("adapter", "pyramid", "pyramid_only", "single_scale")

MASK2FORMER_RULES = PartitionRules(
    others=(
        *ADAPTER_RULES.others,
        *PYRAMID_RULES.others,
        *PIXEL_DECODER_RULES.others,
        *DECODER_RULES.others,
        (r"mask_projection/kernel", ("fsdp", None)),
        (r"mask_projection/bias", (None,)),
        *VIT_RULES.others,
    ),
    blocks=(
        *VIT_RULES.blocks,
        *ADAPTER_RULES.blocks,
        *PIXEL_DECODER_RULES.blocks,
        *DECODER_RULES.blocks,
    ),
)


class Mask2Former(Network):
    """Predicts one mask and one class distribution for each query.

    Attributes:
      vit: the backbone.
      num_classes: K, without "no object".
      num_queries: Q.
      features: the maps that the decoder sees: "adapter", of a ViT-Adapter and a pixel
        decoder; "pyramid", of the ViT's last tokens at four scales and a pixel decoder;
        "pyramid_only", without the pixel decoder; "single_scale", of the last tokens at
        1/16 alone.
      num_layers: layers of the decoder, all of which can mask.
      dim, num_heads, mlp_dim: C, heads and feed-forward width of the decoder.
      pixel_layers, pixel_mlp_dim: layers and feed-forward width of the pixel decoder.
      adapter_ratio: width of the adapter's values as a fraction of D.
      prior_dim: channels of the adapter's first convolutions.
      masked_inference: whether a call without mask_probs masks attention.
    """

    vit: ViT
    num_classes: int
    num_queries: int
    features: str = "adapter"
    num_layers: int = 9
    dim: int = 256
    num_heads: int = 8
    mlp_dim: int = 2048
    pixel_layers: int = 6
    pixel_mlp_dim: int = 1024
    adapter_ratio: float = 0.5
    prior_dim: int = 64
    masked_inference: bool = False

    backbone_name: ClassVar[str] = "vit"
    query_params: ClassVar[tuple[str, ...]] = (
        "decoder/queries",
        "decoder/query_positions",
    )
    class_head_name: ClassVar[str] = "decoder/class_head"

    @property
    def image_size(self) -> tuple[int, int]:
        return self.vit.image_size

    @property
    def dtype(self) -> Any:
        return self.vit.dtype

    @property
    def num_masked_layers(self) -> int:
        return self.num_layers

    def setup(self):
        dtype, remat = self.vit.dtype, self.vit.remat
        if self.features not in FEATURES:
            raise ValueError(
                f"features = {self.features!r}: there are {', '.join(FEATURES)}."
            )
        if self.vit.patch_size != 16:
            raise ValueError(
                f"patch_size {self.vit.patch_size}: a Mask2Former takes the ViT's "
                "patches as its map at 1/16 of the image; set model.patch_size = 16."
            )
        if self.features == "adapter":
            self.adapter = ViTAdapter(
                num_heads=self.vit.num_heads,
                value_ratio=self.adapter_ratio,
                conv_dim=self.prior_dim,
                dtype=dtype,
                remat=remat,
            )
        else:
            scales = (4,) if self.features == "single_scale" else (4, 8, 16, 32)
            self.pyramid = Pyramid(scales, dtype=dtype, remat=remat)
        if self.features in ("adapter", "pyramid"):
            self.pixel_decoder = PixelDecoder(
                dim=self.dim,
                num_heads=self.num_heads,
                mlp_dim=self.pixel_mlp_dim,
                num_layers=self.pixel_layers,
                dtype=dtype,
                remat=remat,
            )
        else:
            self.mask_projection = Dense(self.dim, dtype=dtype)
        self.decoder = TransformerDecoder(
            num_classes=self.num_classes,
            num_queries=self.num_queries,
            num_layers=self.num_layers,
            dim=self.dim,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            dtype=dtype,
            remat=remat,
        )

    @nn.nowrap
    def parameter_groups(self, params: Any) -> ParameterGroups:
        def group(path: str) -> ParameterGroup:
            scope, _, rest = path.partition("/")
            if scope == "vit":
                return self.vit.parameter_group(rest)
            if rest.startswith("class_head"):
                return ParameterGroup("class head")
            return ParameterGroup(scope.replace("_", " "))

        return ParameterGroups.of(params, group, num_blocks=self.vit.depth)

    @nn.nowrap
    def partition_rules(self) -> PartitionRules:
        return MASK2FORMER_RULES

    @nn.nowrap
    def like(self, stored: "Mask2Former", *, num_masked_layers: int = 0) -> Any:
        return stored.clone(
            vit=stored.vit.resized_like(self.vit),
            num_classes=self.num_classes,
            num_queries=self.num_queries,
            num_layers=num_masked_layers or stored.num_layers,
            masked_inference=self.masked_inference,
        )

    @nn.nowrap
    def attention_maps(
        self, intermediates: Any, input_size: tuple[int, int]
    ) -> list[Float[Array, "B Q h w"]]:
        layers = intermediates["decoder"]
        strides = (16,) if self.features == "single_scale" else (32, 16, 8)
        maps = []
        for i in range(self.num_layers):
            (x,) = layers[f"layer_{i}"]["cross_attention"]["of_queries"]
            height, width = (side // strides[i % len(strides)] for side in input_size)
            maps.append(x.reshape(*x.shape[:2], height, width))
        return maps

    @nn.nowrap
    def inference_params(self, params: Any) -> Any:
        # Other parameters stay float32: norms, batch statistics, sampling offsets.
        return {**params, "vit": self.vit.inference_params(params["vit"])}

    def __call__(
        self,
        images: UInt8[Array | np.ndarray, "B H W 3"],
        mask_probs: Float[Array, " L"] | None = None,
        rows: Int[Array, " B"] | None = None,
        *,
        train: bool = False,
    ) -> Outputs:
        """Predicts masks and classes; see Network for the arguments."""
        levels, mask_features = self.maps(images, train=train)
        if mask_probs is None:
            shape = (self.num_layers, len(images), self.num_queries)
            masked = jnp.ones(shape, bool) if self.masked_inference else None
            return self.decoder(levels, mask_features, masked=masked, predict_all=False)
        masked = jnp.stack(
            [self.draw_for_masking(len(images), rows) < prob for prob in mask_probs]
        )
        return self.decoder(levels, mask_features, masked=masked)

    def maps(
        self, images: UInt8[Array | np.ndarray, "B H W 3"], *, train: bool = False
    ) -> tuple[tuple[Float[Array, "B _ _ _"], ...], Float[Array, "B H4 W4 C"]]:
        """Returns the maps that the decoder attends to, coarsest first, and F4."""
        if self.features == "adapter":
            return self.pixel_decoder(self.adapter(self.vit, images, train=train))
        batch = images.shape[0]
        patches = self.vit(images)[:, self.vit.num_prefix_tokens :]
        patches = patches.reshape(batch, *self.vit.grid_size, -1)
        maps = self.pyramid(patches)
        if self.features == "pyramid":
            return self.pixel_decoder(maps)
        f4, *others = maps
        levels = (patches,) if self.features == "single_scale" else others[::-1]
        return tuple(levels), self.mask_projection(f4)
