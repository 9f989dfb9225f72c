"""A plain Vision Transformer of the DINOv2 and DINOv3 architectures.

Legend: B batch, N tokens, D embedding, H W pixels, h w patch grid, p patch size.
"""

import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from eomt_jax.models.attention import QKV_BIASES, Attention
from eomt_jax.models.inference_params import inference_params
from eomt_jax.models.layers import LayerNorm, Mlp, PatchEmbedding, SwiGlu, vit_init
from eomt_jax.models.network import ParameterGroup
from eomt_jax.models.rotary import Rotation, patch_rotation
from eomt_jax.parallel.partition import PartitionRules, Rules, sharded_block, split_rows

Dtype = Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

POSITIONS = ("learned", "rotary")

BLOCK_RULES: Rules = (
    (r"attention/qkv/kernel", ("fsdp", None, "tensor", None)),
    (r"attention/qkv/bias", (None, "tensor", None)),
    (r"attention/out/kernel", ("tensor", None, "fsdp")),
    (r"mlp/(up|gate_up)/kernel", ("fsdp", "tensor")),
    (r"mlp/(up|gate_up)/bias", ("tensor",)),
    (r"mlp/down/kernel", ("tensor", "fsdp")),
    (r"(attention/out|mlp/down)/bias", (None,)),
    (r"layer_scale[12]", (None,)),
    (r"norm[12]/(scale|bias)", (None,)),
)
VIT_RULES = PartitionRules(
    others=(
        (r"norm/(scale|bias)", (None,)),
        (r"patch_embedding/kernel", (None, None, None, "fsdp")),
        (r"patch_embedding/bias", (None,)),
        (r"position_embedding", (None, None, "fsdp")),
        (r"(class_token|register_tokens)", (None, None)),
    ),
    blocks=BLOCK_RULES,
)
_EMBEDDINGS = {
    "patch_embedding": "vit patch embedding",
    "position_embedding": "vit position embedding",
    "class_token": "vit prefix tokens",
    "register_tokens": "vit prefix tokens",
}


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale on both branches."""

    num_heads: int
    mlp_dim: int
    mlp_type: str
    qkv_bias: str
    layer_scale_init: float
    layer_norm_eps: float
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        patch_mask: Bool[Array, "B Q hw"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Array, "B N D"]:
        scale1, scale2 = (
            self.layer_scale(name, x.shape[-1])
            for name in ("layer_scale1", "layer_scale2")
        )
        mlp = {"gelu": Mlp, "swiglu": SwiGlu}[self.mlp_type]
        x = split_rows(x)
        y = LayerNorm(self.layer_norm_eps, self.dtype, name="norm1")(x)
        y = Attention(
            self.num_heads,
            qkv_bias=self.qkv_bias,
            dtype=self.dtype,
            name="attention",
        )(y, scale1, patch_mask, rotation)
        x = x + y
        y = LayerNorm(self.layer_norm_eps, self.dtype, name="norm2")(x)
        return x + mlp(self.mlp_dim, self.dtype, name="mlp")(y, scale2)

    def layer_scale(self, name: str, dim: int) -> Float[Array, " D"] | None:
        """Returns a branch's LayerScale; None if it is multiplied into the weights."""
        if not self.is_initializing() and not self.has_variable("params", name):
            return None
        init = nn.initializers.constant(self.layer_scale_init)
        return jnp.asarray(self.param(name, init, (dim,)))


class ViT(nn.Module):
    """Turns images into tokens: class and register tokens, then patches row by row.

    EoMT calls the parts (`embed`, `blocks`, `norm`) itself to add its queries.

    Attributes:
      embed_dim, depth, num_heads, mlp_dim: sizes.
      mlp_type: "gelu" or "swiglu".
      qkv_bias: "all", "no_key" or "none": which of query, key and value have a bias.
      positions: "learned", an embedding added to the patches, or "rotary".
      rope_theta: base of the rotary frequencies, see `rotary.patch_rotation`.
      rope_rescale: training draws a factor of all rotary coordinates from 1 / this to
        this, evenly in its logarithm, if apply gets the rng stream "positions".
      image_size: (H, W) in pixels, each a multiple of `patch_size`.
      num_register_tokens: number of prefix tokens beside the class token.
      layer_scale_init: initial LayerScale of a network trained from scratch.
      dtype: type of activations; parameters, norms and softmax stay float32.
      remat: compute each block again in the backward pass instead of keeping it; in an
        EoMT each prediction too.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    mlp_type: str = "gelu"
    qkv_bias: str = "all"
    positions: str = "learned"
    rope_theta: float = 100.0
    rope_rescale: float = 2.0
    patch_size: int = 16
    image_size: tuple[int, int] = (640, 640)
    num_register_tokens: int = 4
    layer_scale_init: float = 1e-5
    layer_norm_eps: float = 1e-6
    dtype: Dtype = jnp.float32
    remat: bool = False

    @property
    def grid_size(self) -> tuple[int, int]:
        """Size (h, w) of the patch grid."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        return 1 + self.num_register_tokens

    def setup(self):
        for name, choices in (("qkv_bias", QKV_BIASES), ("positions", POSITIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: there are {', '.join(choices)}."
                )
        if any(side % self.patch_size for side in self.image_size):
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size "
                f"{self.patch_size}."
            )
        self.patch_embedding = PatchEmbedding(
            self.embed_dim, self.patch_size, dtype=self.dtype
        )
        if self.positions == "learned":
            self.position_embedding = self.param(
                "position_embedding", vit_init, (*self.grid_size, self.embed_dim)
            )
        token_init = nn.initializers.normal(1e-6)
        self.class_token = self.param("class_token", token_init, (1, self.embed_dim))
        if self.num_register_tokens:
            self.register_tokens = self.param(
                "register_tokens",
                token_init,
                (self.num_register_tokens, self.embed_dim),
            )
        block = sharded_block(
            Block, rules=BLOCK_RULES, dtype=self.dtype, remat=self.remat
        )
        self.blocks = [
            block(
                num_heads=self.num_heads,
                mlp_dim=self.mlp_dim,
                mlp_type=self.mlp_type,
                qkv_bias=self.qkv_bias,
                layer_scale_init=self.layer_scale_init,
                layer_norm_eps=self.layer_norm_eps,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            for i in range(self.depth)
        ]
        self.norm = LayerNorm(self.layer_norm_eps, self.dtype)

    @nn.nowrap
    def partition_rules(self) -> PartitionRules:
        """Returns the table of where each parameter lies on a mesh."""
        return VIT_RULES

    @nn.nowrap
    def parameter_group(self, path: str) -> ParameterGroup:
        """Returns the group of a parameter of the ViT, by its path."""
        scope, _, _ = path.partition("/")
        block = re.fullmatch(r"block_(\d+)", scope)
        if block:
            return ParameterGroup("vit blocks", int(block[1]))
        if scope == "norm":
            return ParameterGroup("vit final norm", self.depth)
        return ParameterGroup(_EMBEDDINGS[scope], -1)

    @nn.nowrap
    def resized_like(self, wanted: "ViT") -> "ViT":
        """Returns this ViT with image and patch size, dtype and remat of another."""
        return self.clone(
            image_size=wanted.image_size,
            patch_size=wanted.patch_size,
            dtype=wanted.dtype,
            remat=wanted.remat,
        )

    @nn.nowrap
    def inference_params(self, params: Any) -> Any:
        """Returns the parameters in the form in which a call is fastest.

        Args:
          params: the network's own or an EoMT's around it, in float32; call this under
            jit, on devices like those of the calls.
        """
        return inference_params(
            params,
            dtype=self.dtype,
            head_dim=self.embed_dim // self.num_heads,
            qkv_bias=self.qkv_bias,
        )

    def embed(
        self, images: UInt8[Array | np.ndarray, "B H W 3"], *, cropped: bool = False
    ) -> Float[Array, "B N D"]:
        """Returns the tokens before the first block.

        Args:
          images: RGB of `image_size`.
          cropped: whether images may be smaller, in whole patches. They are the top left
            part of an image of `image_size`, and their tokens are those of this part.
        """
        return self.tokens(self.normalize(images, cropped=cropped))

    def normalize(
        self, images: UInt8[Array | np.ndarray, "B H W 3"], *, cropped: bool = False
    ) -> Float[Array, "B H W 3"]:
        """Returns the normalised images in float32; see `embed` for the arguments."""
        _, height, width, _ = images.shape
        if images.dtype != jnp.uint8:
            raise ValueError(
                f"images are of {images.dtype}; wanted uint8, RGB from 0 to 255, for the "
                "network normalises them itself."
            )
        self._check_image_size((height, width), cropped=cropped)
        mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
        return (jnp.asarray(images, jnp.float32) / 255.0 - mean) / std

    def tokens(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
        """Returns the tokens of normalised images before the first block."""
        x = self.patch_embedding(jnp.asarray(pixels, self.dtype))
        batch, rows, columns, _ = x.shape
        if self.positions == "learned":
            x = x + self.position_embedding[:rows, :columns].astype(self.dtype)
        prefix = self.class_token
        if self.num_register_tokens:
            prefix = jnp.concatenate([prefix, self.register_tokens])
        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (batch, *prefix.shape))
        return jnp.concatenate([prefix, x.reshape(batch, -1, self.embed_dim)], axis=1)

    def _check_image_size(self, size: tuple[int, int], *, cropped: bool) -> None:
        if size == tuple(self.image_size):
            return
        if not cropped:
            raise ValueError(
                f"The network was built for images of {self.image_size} pixels "
                f"(height, width) and got {size}; resize the images or "
                "load it with image_size=(height, width)."
            )
        if any(
            side % self.patch_size or not 0 < side <= whole
            for side, whole in zip(size, self.image_size)
        ):
            raise ValueError(
                f"A cropped image of {size} pixels (height, width) is no part of "
                f"{self.image_size} in whole patches of {self.patch_size} pixels; crop "
                "it to multiples of that."
            )

    def rotation(self, part: tuple[int, int] | None = None) -> Rotation | None:
        """Returns the rotary positions for all blocks; None if positions are learned.

        Args:
          part: (rows, columns) of the top left part of the grid; by default all of it.
        """
        if self.positions == "learned":
            return None
        scale = 1.0
        if self.has_rng("positions"):
            key, span = self.make_rng("positions"), math.log(self.rope_rescale)
            scale = jnp.exp(jax.random.uniform(key, minval=-span, maxval=span))
        return patch_rotation(
            self.grid_size,
            head_dim=self.embed_dim // self.num_heads,
            theta=self.rope_theta,
            scale=scale,
            part=part,
        )

    def __call__(
        self, images: UInt8[Array | np.ndarray, "B H W 3"]
    ) -> Float[Array, "B N D"]:
        x, rotation = self.embed(images), self.rotation()
        for block in self.blocks:
            x = block(x, None, rotation)
        return self.norm(x)
