"""Converts parameters between PyTorch's layout and ours, independent of their names.

Only shapes and the order of elements change, so converting there and back is exact. The
results may be views of the arguments.

Legend: D embedding, M hidden width of the feed-forward, N heads, Dh channels of a head,
R register tokens, P position embeddings, p patch size, Q queries, K classes.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from eomt_jax.models.attention import QKV_BIASES


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Architecture of a network, from a checkpoint's shapes and config.

    Attributes:
      class_position: whether the position embedding starts with one for the class
        token.
      num_queries, num_classes: those of an EoMT; 0 for a backbone.
      Others: fields of ViT.
    """

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    mlp_type: str
    patch_size: int
    grid_size: tuple[int, int]
    num_register_tokens: int
    layer_norm_eps: float
    class_position: bool = False
    qkv_bias: str = "all"
    positions: str = "learned"
    rope_theta: float = 100.0
    rope_rescale: float = 2.0
    num_queries: int = 0
    num_classes: int = 0

    @property
    def num_positions(self) -> int:
        return self.grid_size[0] * self.grid_size[1] + self.class_position

    @property
    def num_upscale_blocks(self) -> int:
        """Number of doublings from the patch grid to a quarter of the image."""
        return max(1, self.patch_size.bit_length() - 3) if self.num_queries else 0

    def vit_fields(self) -> dict[str, Any]:
        """Returns the fields of a ViT of the stored sizes."""
        fields = dataclasses.asdict(self)
        for name in ("class_position", "num_queries", "num_classes"):
            del fields[name]
        rows, columns = fields.pop("grid_size")
        p = self.patch_size
        return {**fields, "image_size": (rows * p, columns * p)}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """PyTorch's layout of one of our parameters.

    Attributes:
      shape: shape in PyTorch.
      to_ours: converts PyTorch's array to our layout.
      to_torch: converts our array to PyTorch's layout.
    """

    shape: Callable[[Architecture], tuple[int, ...]]
    to_ours: Callable[[np.ndarray, Architecture], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def leaf(path: str) -> Leaf:
    """Returns the layout of the parameter at a path of a ViT or an EoMT."""
    return LEAVES[re.sub(r"(block|layer)_\d+/", "", path.removeprefix("vit/"))]


def _split_heads(x: np.ndarray, a: Architecture) -> np.ndarray:
    """Reshapes [parts · D, …] to [parts, N, Dh, …]."""
    return x.reshape(-1, a.num_heads, a.embed_dim // a.num_heads, *x.shape[1:])


def _matrix(shape: Callable[[Architecture], tuple[int, ...]]) -> Leaf:
    """Returns the layout of a matrix: [out, in] in PyTorch, [in, out] here."""
    return Leaf(shape, lambda x, a: x.T, lambda x: x.T)


def _same(shape: Callable[[Architecture], tuple[int, ...]]) -> Leaf:
    return Leaf(shape, lambda x, a: x, lambda x: x)


def _tokens(shape: Callable[[Architecture], tuple[int, ...]]) -> Leaf:
    """Returns the layout of tokens, which have an axis for the batch in PyTorch."""
    return Leaf(shape, lambda x, a: x[0], lambda x: x[None])


_VECTOR = _same(lambda a: (a.embed_dim,))
_SQUARE = _matrix(lambda a: (a.embed_dim, a.embed_dim))
_NORMS = ("norm", "norm1", "norm2", "upscale/norm")

# The result has a single axis for the grid, since the position of the class token,
# which some checkpoints have, is still before the others.
POSITIONS = Leaf(
    lambda a: (1, a.num_positions, a.embed_dim),
    lambda x, a: x[0],
    lambda x: x.reshape(1, -1, x.shape[-1]),
)
POSITIONS_WITHOUT_BATCH = Leaf(
    lambda a: (a.num_positions, a.embed_dim),
    lambda x, a: x,
    lambda x: x.reshape(-1, x.shape[-1]),
)

LEAVES = {
    "patch_embedding/kernel": Leaf(
        lambda a: (a.embed_dim, 3, a.patch_size, a.patch_size),
        lambda x, a: x.transpose(2, 3, 1, 0),
        lambda x: x.transpose(3, 2, 0, 1),
    ),
    "patch_embedding/bias": _VECTOR,
    "position_embedding": POSITIONS,
    "class_token": _tokens(lambda a: (1, 1, a.embed_dim)),
    "register_tokens": _tokens(lambda a: (1, a.num_register_tokens, a.embed_dim)),
    **{f"{norm}/{kind}": _VECTOR for norm in _NORMS for kind in ("scale", "bias")},
    "attention/qkv/kernel": Leaf(
        lambda a: (3 * a.embed_dim, a.embed_dim),
        lambda x, a: _split_heads(x, a).transpose(3, 0, 1, 2),
        lambda x: x.reshape(len(x), -1).T,
    ),
    "attention/qkv/bias": Leaf(
        lambda a: (len(QKV_BIASES[a.qkv_bias]) * a.embed_dim,),
        _split_heads,
        lambda x: x.reshape(-1),
    ),
    "attention/out/kernel": Leaf(
        lambda a: (a.embed_dim, a.embed_dim),
        lambda x, a: x.T.reshape(a.num_heads, -1, a.embed_dim),
        lambda x: x.reshape(-1, x.shape[-1]).T,
    ),
    "attention/out/bias": _VECTOR,
    "layer_scale1": _VECTOR,
    "layer_scale2": _VECTOR,
    "mlp/up/kernel": _matrix(lambda a: (a.mlp_dim, a.embed_dim)),
    "mlp/up/bias": _same(lambda a: (a.mlp_dim,)),
    "mlp/gate_up/kernel": _matrix(lambda a: (2 * a.mlp_dim, a.embed_dim)),
    "mlp/gate_up/bias": _same(lambda a: (2 * a.mlp_dim,)),
    "mlp/down/kernel": _matrix(lambda a: (a.embed_dim, a.mlp_dim)),
    "mlp/down/bias": _VECTOR,
    "queries": _same(lambda a: (a.num_queries, a.embed_dim)),
    "class_head/kernel": _matrix(lambda a: (a.num_classes + 1, a.embed_dim)),
    "class_head/bias": _same(lambda a: (a.num_classes + 1,)),
    "mask_head/kernel": _SQUARE,
    "mask_head/bias": _VECTOR,
    # PyTorch's transposed convolution has weights [in, out, y, x].
    "upscale/transposed/kernel": Leaf(
        lambda a: (a.embed_dim, a.embed_dim, 2, 2),
        lambda x, a: x.transpose(0, 2, 3, 1),
        lambda x: x.transpose(0, 3, 1, 2),
    ),
    "upscale/transposed/bias": _VECTOR,
    "upscale/depthwise/kernel": Leaf(
        lambda a: (a.embed_dim, 1, 3, 3),
        lambda x, a: x[:, 0].transpose(1, 2, 0),
        lambda x: x.transpose(2, 0, 1)[:, None],
    ),
}
