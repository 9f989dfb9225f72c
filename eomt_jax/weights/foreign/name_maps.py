"""Names of our ViT's parameters in other libraries.

A `Naming` has for each of our parameters the tensor that holds it, or the tensors that
are to be joined along their first axis. `layouts` has their layouts, and `eomt_names`
the names of the parameters that an EoMT has beside its ViT.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eomt_jax.models.attention import QKV_BIASES
from eomt_jax.weights.foreign.layouts import Architecture, Leaf, leaf

Names = str | tuple[str, ...]
Table = dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Naming:
    """Names of a ViT's tensors, or of an EoMT's; `{i}` stands for the block.

    Attributes:
      title: its name in messages.
      stem: leaves of the ViT outside its blocks.
      block: leaves of the ViT's block i, without its feed-forward.
      feed_forward: leaves of the feed-forward in block i, by mlp_type.
      heads: leaves of an EoMT beside its ViT; empty for a backbone.
      upscale: leaves of its upscaling block i.
      mask_probs: the buffer that has one number for each block with queries.
      class_position: whether the position embedding starts with one for the class
        token, in a ViT without register tokens and in one with them.
      model_types: the model_type that a config.json may have; empty for any.
      ignored: tensors that are not used, whether they are there or not.
      layouts: layouts of leaves that differ from `layouts.leaf`.
    """

    title: str
    stem: Mapping[str, Names]
    block: Mapping[str, Names]
    feed_forward: Mapping[str, Mapping[str, Names]]
    heads: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    upscale: Mapping[str, Names] = dataclasses.field(default_factory=dict)
    mask_probs: str = ""
    class_position: tuple[bool, bool] = (True, True)
    model_types: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    layouts: Mapping[str, Leaf] = dataclasses.field(default_factory=dict)

    @property
    def positions(self) -> str:
        """Positions of the ViT: "learned" if they have a name, otherwise "rotary"."""
        return "learned" if "position_embedding" in self.stem else "rotary"

    @property
    def vit_prefix(self) -> str:
        """Path of the ViT's parameters in our tree."""
        return "vit/" if self.heads else ""

    def table(
        self,
        *,
        depth: int,
        mlp_type: str,
        registers: bool,
        qkv_bias: str = "all",
        num_upscale_blocks: int = 0,
    ) -> Table:
        """Returns the names of the tensors for each of our parameter paths."""
        vit = dict(self.stem)
        if not registers:
            del vit["register_tokens"]
        block = dict(self.block) | dict(self.feed_forward[mlp_type])
        bias = block.pop("attention/qkv/bias")
        if QKV_BIASES[qkv_bias]:
            separate = isinstance(bias, tuple) and len(bias) == 3
            block["attention/qkv/bias"] = (
                tuple(bias[part] for part in QKV_BIASES[qkv_bias]) if separate else bias
            )
        for i in range(depth):
            vit |= {f"block_{i}/{path}": names for path, names in block.items()}
        names = {f"{self.vit_prefix}{path}": value for path, value in vit.items()}
        names |= self.heads
        for i in range(num_upscale_blocks):
            for path, value in self.upscale.items():
                names[f"upscale/block_{i}/{path}"] = value
        return {path: _fill(value, path) for path, value in names.items()}

    def table_of(self, architecture: Architecture) -> Table:
        """Returns `table` for an architecture."""
        a = architecture
        return self.table(
            depth=a.depth,
            mlp_type=a.mlp_type,
            registers=a.num_register_tokens > 0,
            qkv_bias=a.qkv_bias,
            num_upscale_blocks=a.num_upscale_blocks if self.heads else 0,
        )

    def layout(self, path: str) -> Leaf:
        """Returns PyTorch's layout of the parameter at a path of ours."""
        return self.layouts.get(path) or leaf(path)

    def depth(self, names: set[str]) -> int:
        """Returns one more than the highest block of the ViT among the names."""
        prefix = _fill(self.block["norm1/scale"], "block_0/")[0].split("0.")[0]
        blocks = (re.match(re.escape(prefix) + r"(\d{1,4})\.", name) for name in names)
        return max((int(match[1]) + 1 for match in blocks if match), default=0)


def _fill(names: Names, path: str) -> tuple[str, ...]:
    match = re.search(r"block_(\d+)/", path)
    index = match[1] if match else ""
    return tuple(name.replace("{i}", index) for name in _as_tuple(names))


def _as_tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def layer_rows(table: Mapping[str, Names]) -> dict[str, Names]:
    """Turns rows of layers into rows of their kernels (or scales) and biases."""
    rows: dict[str, Names] = {}
    for layer, names in table.items():
        weight = "scale" if layer.split("/")[-1].startswith("norm") else "kernel"
        rows[f"{layer}/{weight}"] = tuple(f"{n}.weight" for n in _as_tuple(names))
        rows[f"{layer}/bias"] = tuple(f"{n}.bias" for n in _as_tuple(names))
    return rows


def prefixed(prefix: str, table: Mapping[str, Names]) -> dict[str, Names]:
    return {p: tuple(prefix + n for n in _as_tuple(v)) for p, v in table.items()}


HUB = Naming(
    title="DINOv2 as torch.hub publishes it",
    stem={
        **layer_rows({"patch_embedding": "patch_embed.proj", "norm": "norm"}),
        "position_embedding": "pos_embed",
        "class_token": "cls_token",
        "register_tokens": "register_tokens",
    },
    block={
        **layer_rows(
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
        "gelu": layer_rows(
            {"mlp/up": "blocks.{i}.mlp.fc1", "mlp/down": "blocks.{i}.mlp.fc2"}
        ),
        "swiglu": layer_rows(
            {"mlp/gate_up": "blocks.{i}.mlp.w12", "mlp/down": "blocks.{i}.mlp.w3"}
        ),
    },
    ignored=("mask_token",),
)

TIMM = dataclasses.replace(
    HUB,
    title="DINOv2 as timm, and without registers torch.hub, names it",
    stem={**HUB.stem, "register_tokens": "reg_token"},
    feed_forward={
        "gelu": HUB.feed_forward["gelu"],
        "swiglu": layer_rows(
            {"mlp/gate_up": "blocks.{i}.mlp.fc1", "mlp/down": "blocks.{i}.mlp.fc2"}
        ),
    },
    class_position=(True, False),
)


def transformers_vit(
    title: str,
    *,
    layer: str,
    attention: Sequence[str],
    gelu: tuple[Names, Names],
    swiglu: tuple[Names, Names],
    patches: str,
    norm: str,
    positions: str = "",
    embeddings: str = "embeddings",
    **fields: Any,
) -> Naming:
    """Returns the naming of a ViT in one of transformers' classes.

    Args:
      title: see Naming.
      layer: prefix of block i.
      attention: names within a block of the projections to query, key and value, and of
        the output projection.
      gelu, swiglu: names within a block's `mlp` of both matrices of each feed-forward.
      patches: name of the patch embedding.
      norm: name of the final norm.
      positions: name of the position embedding, if there is one.
      embeddings: prefix of the tokens.
      **fields: other fields of Naming.
    """
    query, key, value, out = (f"{layer}.{name}" for name in attention)
    stem = {
        **layer_rows({"patch_embedding": patches, "norm": norm}),
        "class_token": f"{embeddings}.cls_token",
        "register_tokens": f"{embeddings}.register_tokens",
    }
    if positions:
        stem["position_embedding"] = positions
    return Naming(
        title,
        stem=stem,
        block={
            **layer_rows(
                {
                    "norm1": f"{layer}.norm1",
                    "attention/qkv": (query, key, value),
                    "attention/out": out,
                    "norm2": f"{layer}.norm2",
                }
            ),
            "layer_scale1": f"{layer}.layer_scale1.lambda1",
            "layer_scale2": f"{layer}.layer_scale2.lambda1",
        },
        feed_forward={
            kind: prefixed(
                f"{layer}.mlp.", layer_rows({up: names[0], "mlp/down": names[1]})
            )
            for kind, up, names in [
                ("gelu", "mlp/up", gelu),
                ("swiglu", "mlp/gate_up", swiglu),
            ]
        },
        ignored=(f"{embeddings}.mask_token",),
        **fields,
    )


PACKED = ("weights_in", "weights_out")
GATED = (("gate_proj", "up_proj"), "down_proj")

_dinov2 = functools.partial(
    transformers_vit,
    layer="encoder.layer.{i}",
    gelu=("fc1", "fc2"),
    patches="embeddings.patch_embeddings.projection",
    positions="embeddings.position_embeddings",
    norm="layernorm",
    model_types=("dinov2", "dinov2_with_registers"),
)
HUGGING_FACE = _dinov2(
    "DINOv2 as Hugging Face publishes it",
    attention=(
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ),
    swiglu=PACKED,
)
# The names of state_dict() in transformers 5; save_pretrained writes the older ones.
TRANSFORMERS_5 = _dinov2(
    "DINOv2 as transformers 5 names it in memory",
    attention=tuple(f"attention.{x}_proj" for x in "qkvo"),
    swiglu=GATED,
)

dinov3_vit = functools.partial(
    transformers_vit,
    attention=tuple(f"attention.{x}_proj" for x in "qkvo"),
    gelu=("up_proj", "down_proj"),
    swiglu=GATED,
    patches="embeddings.patch_embeddings",
    norm="norm",
)
DINOV3 = dinov3_vit(
    "DINOv3 as Hugging Face publishes it",
    layer="layer.{i}",
    model_types=("dinov3_vit",),
)
DINOV3_IN_MEMORY = dinov3_vit(
    "DINOv3 as transformers 5 names it in memory",
    layer="model.layer.{i}",
    model_types=("dinov3_vit",),
)
# timm comes first: without registers its table equals the hub's or has more names.
BACKBONES = (TIMM, HUB, HUGGING_FACE, TRANSFORMERS_5, DINOV3, DINOV3_IN_MEMORY)
