"""EoMT, a ViT whose last blocks also see learned queries.

Source: "Your ViT is Secretly an Image Segmentation Model", arXiv 2503.19108.
Legend: B batch, N tokens, Q queries, K classes, D embedding, H W pixels, h w patch
grid, L2 blocks with queries.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from eomt_jax.models.functions import backward_in_turn
from eomt_jax.models.layers import Dense, MaskHead, uniform_fan_in
from eomt_jax.models.mask_product import MaskFactors, PixelFeatures, mask_product
from eomt_jax.models.network import Network, ParameterGroup, ParameterGroups
from eomt_jax.models.scale_blocks import SCALE_BLOCK_RULES, Upscale
from eomt_jax.models.vit import VIT_RULES, ViT
from eomt_jax.ops.resize import bilinear_resize
from eomt_jax.parallel.partition import PartitionRules
from eomt_jax.types import Outputs

EOMT_RULES = PartitionRules(
    others=(
        *VIT_RULES.others,
        (r"queries", (None, "fsdp")),
        (r"class_head/kernel", ("fsdp", None)),
        (r"mask_head/layer_\d+/kernel", ("fsdp", "tensor")),
        (r"mask_head/layer_\d+/bias", ("tensor",)),
        (r"class_head/bias", (None,)),
        *SCALE_BLOCK_RULES,
    ),
    blocks=VIT_RULES.blocks,
)
_GROUPS = {
    "queries": ParameterGroup("queries"),
    "class_head": ParameterGroup("class head"),
    "mask_head": ParameterGroup("mask head"),
    "upscale": ParameterGroup("upscale blocks"),
}


class EoMT(Network):
    """Predicts one mask and one class distribution for each query.

    Attributes:
      vit: the backbone; its last `num_query_blocks` blocks see the queries.
      num_classes: K, without "no object".
      num_queries: Q.
      num_query_blocks: L2.
      masked_inference: whether a call without mask_probs masks attention in all L2
        blocks, as a network that is trained so to the end needs it.
    """

    vit: ViT
    num_classes: int
    num_queries: int
    num_query_blocks: int
    masked_inference: bool = False

    backbone_name: ClassVar[str] = "vit"
    query_params: ClassVar[tuple[str, ...]] = ("queries",)
    has_mask_factors: ClassVar[bool] = True

    @property
    def image_size(self) -> tuple[int, int]:
        return self.vit.image_size

    @property
    def dtype(self) -> Any:
        return self.vit.dtype

    @property
    def num_masked_layers(self) -> int:
        return self.num_query_blocks

    @property
    def masked_layer_names(self) -> tuple[str, ...]:
        first = self.vit.depth - self.num_query_blocks
        return tuple(f"block {i + 1}" for i in range(first, self.vit.depth))

    @property
    def crop_step(self) -> int:
        return self.vit.patch_size

    def setup(self):
        dim, dtype = self.vit.embed_dim, self.vit.dtype
        if not 1 <= self.num_query_blocks <= self.vit.depth:
            raise ValueError(
                f"num_query_blocks {self.num_query_blocks} must lie between 1 and the "
                f"ViT's depth {self.vit.depth}."
            )
        self.queries = self.param(
            "queries", nn.initializers.normal(1.0), (self.num_queries, dim)
        )
        init = uniform_fan_in(dim)
        self.class_head = Dense(
            self.num_classes + 1, kernel_init=init, bias_init=init, dtype=dtype
        )
        self.mask_head = MaskHead(dtype)
        self.upscale = Upscale(
            max(1, int(math.log2(self.vit.patch_size)) - 2),
            # As in the release, upscaling norms have 1e-6 with any backbone.
            layer_norm_eps=1e-6,
            dtype=dtype,
        )

    @nn.nowrap
    def parameter_groups(self, params: Any) -> ParameterGroups:
        def group(path: str) -> ParameterGroup:
            scope, _, rest = path.partition("/")
            return (
                self.vit.parameter_group(rest)
                if scope == "vit"
                else _GROUPS.get(scope, ParameterGroup(scope))
            )

        return ParameterGroups.of(params, group, num_blocks=self.vit.depth)

    @nn.nowrap
    def partition_rules(self) -> PartitionRules:
        return EOMT_RULES

    @nn.nowrap
    def like(self, stored: "EoMT", *, num_masked_layers: int = 0) -> "EoMT":
        return self.clone(
            vit=stored.vit.resized_like(self.vit),
            num_query_blocks=num_masked_layers or stored.num_query_blocks,
        )

    @nn.nowrap
    def attention_maps(
        self, intermediates: Any, input_size: tuple[int, int]
    ) -> list[Float[Array, "B Q h w"]]:
        height, width = (side // self.vit.patch_size for side in input_size)
        blocks = range(self.vit.depth - self.num_query_blocks, self.vit.depth)
        collected = [intermediates["vit"][f"block_{i}"]["attention"] for i in blocks]
        maps = [attention["of_queries"][0] for attention in collected]
        return [x.reshape(*x.shape[:2], height, width) for x in maps]

    @nn.nowrap
    def inference_params(self, params: Any) -> Any:
        return self.vit.inference_params(params)

    def __call__(
        self,
        images: UInt8[Array | np.ndarray, "B H W 3"],
        mask_probs: Float[Array, " L2"] | None = None,
        rows: Int[Array, " B"] | None = None,
        *,
        train: bool = False,
        cropped: bool = False,
        factored: bool = False,
    ) -> Outputs:
        """Predicts masks and classes.

        Args:
          images: RGB, 0 to 255; normalisation happens inside.
          mask_probs: for each block with queries the probability that an (image,
            query) pair is masked in it. None predicts once, as in inference, and masks
            only with masked_inference; otherwise the rng stream "mask" is needed and
            there is a prediction before each of these blocks too.
          rows: the images' places in the global batch, which decide with the rng which
            queries are masked; by default the images are the whole batch.
          train: changes nothing, since there are no batch statistics.
          cropped: whether images may be smaller than the ViT's image_size, in whole
            patches. They are the top left part of an image whose rest is padding. Only
            this part is computed, and the masks are of this part.
          factored: whether the last prediction's mask logits are left as MaskFactors.

        Returns:
          Outputs with 1 or L2 + 1 predictions.
        """
        num_plain_blocks = self.vit.depth - self.num_query_blocks
        _, height, width, _ = images.shape
        grid_size = height // self.vit.patch_size, width // self.vit.patch_size
        x = self.vit.embed(images, cropped=cropped)
        rotation = self.vit.rotation(grid_size)
        for block in self.vit.blocks[:num_plain_blocks]:
            x = block(x, None, rotation)
        queries = self.queries.astype(x.dtype)
        queries = jnp.broadcast_to(queries, (x.shape[0], *queries.shape))
        x = jnp.concatenate([queries, x], axis=1)

        # The pixel features of all predictions would take more memory than all blocks.
        predict: Any = EoMT.predict
        if self.vit.remat:
            predict = nn.remat(predict, static_argnums=(2,))
        predictions = []
        for i, block in enumerate(self.vit.blocks[num_plain_blocks:]):
            patch_mask = None
            if mask_probs is not None:
                prediction = predict(self, x, grid_size)
                if self.vit.remat:
                    x, prediction = backward_in_turn(x, prediction)
                predictions.append(prediction)
                # A query that isn't masked sees all patches.
                masked = self.draw_for_masking(len(images), rows) < mask_probs[i]
                patch_mask = (
                    patches_inside(prediction[0], grid_size) | ~masked[..., None]
                )
            elif self.masked_inference:
                patch_mask = patches_inside(predict(self, x, grid_size)[0], grid_size)
            x = block(x, patch_mask, rotation)
        if factored:
            predict = EoMT.predict_factors
        predictions.append(predict(self, x, grid_size))
        mask_logits, class_logits = zip(*predictions)
        return Outputs(mask_logits=mask_logits, class_logits=class_logits)

    def predict(
        self, tokens: Float[Array, "B N D"], grid_size: tuple[int, int]
    ) -> tuple[Float[Array, "B Q H4 W4"], Float[Array, "B Q K1"]]:
        """Returns mask and class logits in float32 from the tokens of any block.

        Args:
          tokens: queries, prefix and patches.
          grid_size: (h, w) of the patches.
        """
        queries, pixels = self.queries_and_pixels(tokens, grid_size)
        mask_logits: Any = mask_product(self.mask_head(queries), pixels)
        return mask_logits, self.class_head(queries).astype(jnp.float32)

    def predict_factors(
        self, tokens: Float[Array, "B N D"], grid_size: tuple[int, int]
    ) -> tuple[MaskFactors, Float[Array, "B Q K1"]]:
        """Returns what `predict` does, before the product of queries and pixels."""
        queries, pixels = self.queries_and_pixels(tokens, grid_size)
        factors = MaskFactors(self.mask_head(queries), pixels.normalized())
        return factors, self.class_head(queries).astype(jnp.float32)

    def queries_and_pixels(
        self, tokens: Float[Array, "B N D"], grid_size: tuple[int, int]
    ) -> tuple[Float[Array, "B Q D"], PixelFeatures]:
        """Returns the query tokens after the last norm, and the upscaled patches."""
        batch, _, dim = tokens.shape
        tokens = self.vit.norm(tokens)
        patches = tokens[:, self.num_queries + self.vit.num_prefix_tokens :]
        pixels = self.upscale(patches.reshape(batch, *grid_size, dim))
        return tokens[:, : self.num_queries], pixels


def patches_inside(
    mask_logits: Float[Array, "B Q H4 W4"], grid_size: tuple[int, int]
) -> Bool[Array, "B Q hw"]:
    """Returns True for patches that lie in a query's predicted mask."""
    batch, num_queries = mask_logits.shape[:2]
    logits = bilinear_resize(mask_logits, grid_size)
    return (logits > 0).reshape(batch, num_queries, -1)
