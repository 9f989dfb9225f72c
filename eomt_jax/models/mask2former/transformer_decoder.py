"""Mask2Former's transformer decoder: queries read one feature map after another.

In each layer they attend to the map inside the masks that the layer before predicted.

Source: "Masked-attention Mask Transformer for Universal Image Segmentation", arXiv
2112.01527, facebookresearch/Mask2Former@9b0651c
mask2former/modeling/transformer_decoder/mask2former_transformer_decoder.py.

Legend: B batch, Q queries, K classes, D embedding, heads, Dh = D / heads, N pixels of a
level, h w map of a level, H4 W4 a quarter of the image, L layers.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from eomt_jax.models.functions import backward_in_turn
from eomt_jax.models.kernels.attention import choose_kernel
from eomt_jax.models.kernels.xla_attention import attend, attention_weights
from eomt_jax.models.layers import Dense, LayerNorm, MaskHead, ReluMlp, uniform_fan_in
from eomt_jax.models.mask2former.positions import sine_positions
from eomt_jax.models.mask_product import PixelFeatures, mask_product
from eomt_jax.ops.resize import bilinear_resize
from eomt_jax.parallel.partition import PartitionRules, Rules, sharded_block, split_rows
from eomt_jax.parallel.platform import current_platform
from eomt_jax.types import Outputs

Dtype = Any
Map = Float[Array, "B _ _ _"]
Memory = tuple[Float[Array, "B N D"], Float[Array, "B N D"]]

LAYER_NORM_EPS = 1e-5

# Xavier's, with the matrices of query, key and value as one of [3·D, D].
_joint_init = nn.initializers.variance_scaling(0.5, "fan_in", "uniform")
_projection_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

LAYER_RULES: Rules = (
    (r"(cross|self)_attention/(query|key|value)/kernel", ("fsdp", "tensor")),
    (r"(cross|self)_attention/(query|key|value)/bias", ("tensor",)),
    (r"(cross|self)_attention/out/kernel", ("tensor", "fsdp")),
    (r"mlp/up/kernel", ("fsdp", "tensor")),
    (r"mlp/up/bias", ("tensor",)),
    (r"mlp/down/kernel", ("tensor", "fsdp")),
    (r"((cross|self)_attention/out|mlp/down)/bias", (None,)),
    (r"norm[123]/(scale|bias)", (None,)),
)
DECODER_RULES = PartitionRules(
    others=(
        (r"(queries|query_positions|level_embedding)", (None, "fsdp")),
        (r"projection_\d+/kernel", ("fsdp", None)),
        (r"projection_\d+/bias", (None,)),
        (r"norm/(scale|bias)", (None,)),
        (r"class_head/kernel", ("fsdp", None)),
        (r"class_head/bias", (None,)),
        (r"mask_head/layer_\d+/kernel", ("fsdp", "tensor")),
        (r"mask_head/layer_\d+/bias", ("tensor",)),
    ),
    blocks=LAYER_RULES,
)


class Attention(nn.Module):
    """Multi-head attention of queries to tokens whose keys and values differ.

    Attributes:
      num_heads: number of heads.
      dtype: type of activations.
    """

    num_heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "B Q D"],
        key: Float[Array, "B N D"],
        value: Float[Array, "B N D"],
        mask: Bool[Array, "B Q N"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """Returns the new values of the queries, before any residual.

        Args:
          query: the queries with their positions.
          key: the tokens with their positions.
          value: the tokens.
          mask: False where a query doesn't attend to a token.
        """
        batch, num_tokens, dim = key.shape
        head_dim = dim // self.num_heads
        kernel = choose_kernel(dtype=jnp.dtype(self.dtype), head_dim=head_dim)
        if mask is None:
            padding = kernel.padded_length(num_tokens) - num_tokens
            key, value = (
                jnp.pad(x, ((0, 0), (0, padding), (0, 0))) for x in (key, value)
            )
        heads = []
        for name, x in (("query", query), ("key", key), ("value", value)):
            x = Dense(dim, kernel_init=_joint_init, dtype=self.dtype, name=name)(x)
            heads.append(x.reshape(batch, -1, self.num_heads, head_dim))
        if mask is None:
            out = kernel.attend(*heads, num_tokens=num_tokens)
        else:
            out = attend(*heads, mask)
            if self.is_mutable_collection("intermediates"):
                weights = attention_weights(heads[0], heads[1], mask).mean(axis=1)
                self.sow("intermediates", "of_queries", weights)
        out = out.reshape(query.shape)
        init = nn.initializers.xavier_uniform()
        return Dense(dim, kernel_init=init, dtype=self.dtype, name="out")(out)


class Layer(nn.Module):
    """Post-norm layer: cross-attention, self-attention, feed-forward."""

    num_heads: int
    mlp_dim: int
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q D"],
        positions: Float[Array, "Q D"],
        memory: Memory,
        mask: Bool[Array, "B Q N"] | None = None,
    ) -> Float[Array, "B Q D"]:
        """Returns the new queries.

        Args:
          x: the queries.
          positions: learned positions of the queries.
          memory: the pixels of a level with their positions, and without.
          mask: False where a query doesn't attend to a pixel.
        """

        def attention(name: str) -> Attention:
            return Attention(self.num_heads, self.dtype, name=name)

        def norm(name: str) -> LayerNorm:
            return LayerNorm(LAYER_NORM_EPS, self.dtype, name=name)

        x = split_rows(x)
        y = attention("cross_attention")(x + positions, *memory, mask)
        x = norm("norm1")(x + y)
        placed = x + positions
        x = norm("norm2")(x + attention("self_attention")(placed, placed, x))
        return norm("norm3")(x + ReluMlp(self.mlp_dim, self.dtype, name="mlp")(x))


class TransformerDecoder(nn.Module):
    """Predicts masks and classes of queries that attend to maps in turn.

    Attributes:
      num_classes: K, without "no object".
      num_queries: Q.
      num_layers: L; layer i attends to map i modulo their number.
      dim: D.
      num_heads: heads of all attention.
      mlp_dim: width of the feed-forward layers.
      dtype: type of activations; parameters, norms and softmax stay float32.
      remat: compute each layer and prediction again in the backward pass instead of
        keeping it.
    """

    num_classes: int
    num_queries: int
    num_layers: int = 9
    dim: int = 256
    num_heads: int = 8
    mlp_dim: int = 2048
    dtype: Dtype = jnp.float32
    remat: bool = False

    def setup(self):
        if self.dim % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide the decoder's dim "
                f"{self.dim}."
            )
        shape = (self.num_queries, self.dim)
        self.queries = self.param("queries", nn.initializers.normal(1.0), shape)
        self.query_positions = self.param(
            "query_positions", nn.initializers.normal(1.0), shape
        )
        layer = sharded_block(
            Layer, rules=LAYER_RULES, dtype=self.dtype, remat=self.remat
        )
        self.layers = [
            layer(self.num_heads, self.mlp_dim, self.dtype, name=f"layer_{i}")
            for i in range(self.num_layers)
        ]
        self.norm = LayerNorm(LAYER_NORM_EPS, self.dtype)
        init = uniform_fan_in(self.dim)
        self.class_head = Dense(
            self.num_classes + 1, kernel_init=init, bias_init=init, dtype=self.dtype
        )
        self.mask_head = MaskHead(self.dtype, activation=nn.relu)

    @nn.compact
    def __call__(
        self,
        levels: Sequence[Map],
        mask_features: Float[Array, "B H4 W4 D"],
        *,
        masked: Bool[Array, "L B Q"] | None,
        predict_all: bool = True,
    ) -> Outputs:
        """Predicts masks and classes.

        Args:
          levels: the maps, coarse to fine, each of any width.
          mask_features: the pixels that mask embeddings are multiplied with.
          masked: for each layer, image and query whether it attends to the inside of
            its mask only; a query without a pixel inside attends to all. None computes
            no masks and predicts once.
          predict_all: False returns the last prediction alone.

        Returns:
          Outputs with 1 or L + 1 predictions.
        """
        batch = len(mask_features)
        memories = self._memories(levels)
        mask_features = mask_features.astype(self.dtype)
        positions = jnp.asarray(self.query_positions, self.dtype)
        x = jnp.asarray(self.queries, self.dtype)
        x = jnp.broadcast_to(x, (batch, *x.shape))
        predict: Any = TransformerDecoder.predict
        if self.remat:
            predict = nn.remat(predict)
        predictions = []
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            mask = None
            if masked is not None:
                prediction = predict(self, x, mask_features)
                if self.remat:
                    x, prediction = backward_in_turn(x, prediction)
                predictions.append(prediction)
                _, height, width, _ = levels[level].shape
                inside = pixels_inside(prediction[0], (height, width))
                mask = inside | ~masked[i][..., None]
                mask = mask | ~mask.any(-1, keepdims=True)
            x = layer(x, positions, memories[level], mask)
        predictions.append(predict(self, x, mask_features))
        if not predict_all:
            predictions = predictions[-1:]
        mask_logits, class_logits = zip(*predictions)
        return Outputs(mask_logits=mask_logits, class_logits=class_logits)

    def _memories(self, levels: Sequence[Map]) -> list[Memory]:
        """Returns the pixels of each level with their positions, and without."""
        # A single level has one too: the paper's number of parameters includes it.
        init, shape = nn.initializers.normal(1.0), (len(levels), self.dim)
        embeddings = jnp.asarray(self.param("level_embedding", init, shape))
        memories = []
        for i, (level, embedding) in enumerate(zip(levels, embeddings)):
            _, height, width, channels = level.shape
            if channels != self.dim:
                level = Dense(
                    self.dim,
                    kernel_init=_projection_init,
                    dtype=self.dtype,
                    name=f"projection_{i}",
                )(level)
            pixels = level.astype(jnp.float32) + embedding
            placed = pixels + sine_positions((height, width), self.dim)
            memories.append(
                tuple(
                    x.astype(self.dtype).reshape(len(x), height * width, self.dim)
                    for x in (placed, pixels)
                )
            )
        return memories

    def predict(
        self, x: Float[Array, "B Q D"], mask_features: Float[Array, "B H4 W4 D"]
    ) -> tuple[Float[Array, "B Q H4 W4"], Float[Array, "B Q K1"]]:
        """Returns mask and class logits in float32 from the queries of any layer."""
        x = self.norm(x)
        pixels = PixelFeatures(mask_features, on_gpu=current_platform().name == "gpu")
        mask_logits: Any = mask_product(self.mask_head(x), pixels)
        return mask_logits, self.class_head(x).astype(jnp.float32)


def pixels_inside(
    mask_logits: Float[Array, "B Q H4 W4"], size: tuple[int, int]
) -> Bool[Array, "B Q N"]:
    """Returns True for pixels of a level that lie in a query's predicted mask.

    A logit of exactly 0 is inside, unlike in an EoMT. In PyTorch, which compares the
    sigmoid with a half, so are negative logits above -6e-8.
    """
    batch, num_queries = mask_logits.shape[:2]
    logits: Any = bilinear_resize(mask_logits, size)
    return (logits >= 0).reshape(batch, num_queries, -1)
