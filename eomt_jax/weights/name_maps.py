"""What other libraries call our parameters, and how they lay them out.

Two kinds of tables, independent of each other. A `Naming` gives for each of our leaves
the tensor, or the tensors to be joined along their first axis, that hold it. `LEAVES`
gives for each of our leaves PyTorch's layout, which all namings share, and the way from
there to ours.

Legend: D embedding, M hidden width of the feed-forward, N heads, R register tokens,
P position embeddings, p patch size.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Names = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What the shapes and the config of a ViT's checkpoint tell."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    mlp_type: str
    patch_size: int
    grid_size: tuple[int, int]
    num_register_tokens: int
    layer_norm_eps: float
    class_position: bool  # the position embedding starts with one for the class token

    @property
    def num_positions(self) -> int:
        return self.grid_size[0] * self.grid_size[1] + self.class_position

    def vit_fields(self) -> dict[str, Any]:
        """The fields of a ViT at the checkpoint's own size."""
        fields = dataclasses.asdict(self)
        del fields["class_position"]
        rows, columns = fields.pop("grid_size")
        p = self.patch_size
        return {**fields, "image_size": (rows * p, columns * p)}


@dataclasses.dataclass(frozen=True)
class Naming:
    """Names of a ViT's tensors; `{i}` stands for the block.

    Attributes:
      title: for messages.
      stem: leaves outside the blocks.
      block: leaves of block i, feed-forward excepted.
      feed_forward: the same by mlp_type.
      ignored: tensors of no use here that may be there or not.
    """

    title: str
    stem: dict[str, Names]
    block: dict[str, Names]
    feed_forward: dict[str, dict[str, Names]]
    ignored: tuple[str, ...]

    def table(
        self, *, depth: int, mlp_type: str, registers: bool
    ) -> dict[str, tuple[str, ...]]:
        """Our parameter path → names in the checkpoint."""
        names = dict(self.stem)
        if not registers:
            del names["register_tokens"]
        for i in range(depth):
            for leaf, name in (self.block | self.feed_forward[mlp_type]).items():
                names[f"block_{i}/{leaf}"] = name
        return {path: _fill(name, path) for path, name in names.items()}

    def depth(self, names: set[str]) -> int:
        """One more than the highest block that is named."""
        prefix = _fill(self.block["norm1/scale"], "block_0")[0].split("0.")[0]
        blocks = (re.match(re.escape(prefix) + r"(\d{1,4})\.", name) for name in names)
        return max((int(match[1]) + 1 for match in blocks if match), default=0)


def _fill(names: Names, path: str) -> tuple[str, ...]:
    match = re.match(r"block_(\d+)", path)
    index = match[1] if match else ""
    names = (names,) if isinstance(names, str) else names
    return tuple(name.replace("{i}", index) for name in names)


def _layers(table: dict[str, Names]) -> dict[str, Names]:
    """Rows of layers as rows of their kernels (or scales) and biases."""
    rows: dict[str, Names] = {}
    for layer, names in table.items():
        names = (names,) if isinstance(names, str) else names
        weight = "scale" if layer.split("/")[-1].startswith("norm") else "kernel"
        rows[f"{layer}/{weight}"] = tuple(f"{name}.weight" for name in names)
        rows[f"{layer}/bias"] = tuple(f"{name}.bias" for name in names)
    return rows


HUB = Naming(
    title="DINOv2 as torch.hub publishes it",
    stem={
        **_layers({"patch_embedding": "patch_embed.proj", "norm": "norm"}),
        "position_embedding": "pos_embed",
        "class_token": "cls_token",
        "register_tokens": "register_tokens",
    },
    block={
        **_layers(
            {
                "norm1": "blocks.{i}.norm1",
                "attention/qkv": "blocks.{i}.attn.qkv",
                "attention/out": "blocks.{i}.attn.proj",
                "norm2": "blocks.{i}.norm2",
            }
        ),
        "layer_scale1": "blocks.{i}.ls1.gamma",
        "layer_scale2": "blocks.{i}.ls2.gamma",
    },
    feed_forward={
        "gelu": _layers(
            {"mlp/up": "blocks.{i}.mlp.fc1", "mlp/down": "blocks.{i}.mlp.fc2"}
        ),
        "swiglu": _layers(
            {"mlp/gate_up": "blocks.{i}.mlp.w12", "mlp/down": "blocks.{i}.mlp.w3"}
        ),
    },
    ignored=("mask_token",),
)

TIMM = dataclasses.replace(
    HUB,
    title="DINOv2 as timm names it",
    stem={**HUB.stem, "register_tokens": "reg_token"},
    feed_forward={
        "gelu": HUB.feed_forward["gelu"],
        "swiglu": _layers(
            {"mlp/gate_up": "blocks.{i}.mlp.fc1", "mlp/down": "blocks.{i}.mlp.fc2"}
        ),
    },
)

_HF_ATTENTION = "encoder.layer.{i}.attention."
_HF_MLP = "encoder.layer.{i}.mlp."
HUGGING_FACE = Naming(
    title="DINOv2 as Hugging Face publishes it",
    stem={
        **_layers(
            {
                "patch_embedding": "embeddings.patch_embeddings.projection",
                "norm": "layernorm",
            }
        ),
        "position_embedding": "embeddings.position_embeddings",
        "class_token": "embeddings.cls_token",
        "register_tokens": "embeddings.register_tokens",
    },
    block={
        **_layers(
            {
                "norm1": "encoder.layer.{i}.norm1",
                "attention/qkv": (
                    f"{_HF_ATTENTION}attention.query",
                    f"{_HF_ATTENTION}attention.key",
                    f"{_HF_ATTENTION}attention.value",
                ),
                "attention/out": f"{_HF_ATTENTION}output.dense",
                "norm2": "encoder.layer.{i}.norm2",
            }
        ),
        "layer_scale1": "encoder.layer.{i}.layer_scale1.lambda1",
        "layer_scale2": "encoder.layer.{i}.layer_scale2.lambda1",
    },
    feed_forward={
        "gelu": _layers({"mlp/up": f"{_HF_MLP}fc1", "mlp/down": f"{_HF_MLP}fc2"}),
        "swiglu": _layers(
            {
                "mlp/gate_up": f"{_HF_MLP}weights_in",
                "mlp/down": f"{_HF_MLP}weights_out",
            }
        ),
    },
    ignored=("embeddings.mask_token",),
)

# What state_dict() gives in transformers 5; save_pretrained writes the older names.
TRANSFORMERS_5 = dataclasses.replace(
    HUGGING_FACE,
    title="DINOv2 as transformers 5 names it in memory",
    block={
        **HUGGING_FACE.block,
        **_layers(
            {
                "attention/qkv": (
                    f"{_HF_ATTENTION}q_proj",
                    f"{_HF_ATTENTION}k_proj",
                    f"{_HF_ATTENTION}v_proj",
                ),
                "attention/out": f"{_HF_ATTENTION}o_proj",
            }
        ),
    },
    feed_forward={
        "gelu": HUGGING_FACE.feed_forward["gelu"],
        "swiglu": _layers(
            {
                "mlp/gate_up": (f"{_HF_MLP}gate_proj", f"{_HF_MLP}up_proj"),
                "mlp/down": f"{_HF_MLP}down_proj",
            }
        ),
    },
)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """PyTorch's layout of one of our parameters.

    Attributes:
      shape: in PyTorch.
      to_ours: PyTorch's array in our layout.
    """

    shape: Callable[[Architecture], tuple[int, ...]]
    to_ours: Callable[[np.ndarray, Architecture], np.ndarray]


def leaf(path: str) -> Leaf:
    """The layout of the parameter at a path of ours."""
    return LEAVES[re.sub(r"^block_\d+/", "", path)]


def _split_heads(x: np.ndarray, a: Architecture) -> np.ndarray:
    """[3D, …] → [3, N, D/N, …]."""
    return x.reshape(3, a.num_heads, a.embed_dim // a.num_heads, *x.shape[1:])


_VECTOR = Leaf(lambda a: (a.embed_dim,), lambda x, a: x)
_NORM = {"scale": _VECTOR, "bias": _VECTOR}
LEAVES = {
    "patch_embedding/kernel": Leaf(
        lambda a: (a.embed_dim, 3, a.patch_size, a.patch_size),
        lambda x, a: x.transpose(2, 3, 1, 0),
    ),
    "patch_embedding/bias": _VECTOR,
    # Kept flat: the class token's part, if any, is not split off here.
    "position_embedding": Leaf(
        lambda a: (1, a.num_positions, a.embed_dim), lambda x, a: x[0]
    ),
    "class_token": Leaf(lambda a: (1, 1, a.embed_dim), lambda x, a: x[0]),
    "register_tokens": Leaf(
        lambda a: (1, a.num_register_tokens, a.embed_dim), lambda x, a: x[0]
    ),
    **{f"{n}/{k}": v for n in ("norm", "norm1", "norm2") for k, v in _NORM.items()},
    "attention/qkv/kernel": Leaf(
        lambda a: (3 * a.embed_dim, a.embed_dim),
        lambda x, a: _split_heads(x, a).transpose(3, 0, 1, 2),
    ),
    "attention/qkv/bias": Leaf(lambda a: (3 * a.embed_dim,), _split_heads),
    "attention/out/kernel": Leaf(
        lambda a: (a.embed_dim, a.embed_dim),
        lambda x, a: x.T.reshape(a.num_heads, -1, a.embed_dim),
    ),
    "attention/out/bias": _VECTOR,
    "layer_scale1": _VECTOR,
    "layer_scale2": _VECTOR,
    "mlp/up/kernel": Leaf(lambda a: (a.mlp_dim, a.embed_dim), lambda x, a: x.T),
    "mlp/up/bias": Leaf(lambda a: (a.mlp_dim,), lambda x, a: x),
    "mlp/gate_up/kernel": Leaf(
        lambda a: (2 * a.mlp_dim, a.embed_dim), lambda x, a: x.T
    ),
    "mlp/gate_up/bias": Leaf(lambda a: (2 * a.mlp_dim,), lambda x, a: x),
    "mlp/down/kernel": Leaf(lambda a: (a.embed_dim, a.mlp_dim), lambda x, a: x.T),
    "mlp/down/bias": _VECTOR,
}
