"""DINOv2 checkpoints as the parameter tree of our ViT.

Strict both ways: every tensor of the file is used or known to be useless, and every
parameter of ours is found, each with the shape that the others imply.
"""

import math
from typing import Any

import numpy as np

from eomt_jax.weights.files import Checkpoint, Shape
from eomt_jax.weights.layouts import Architecture, leaf
from eomt_jax.weights.name_maps import (
    HUB,
    HUGGING_FACE,
    TIMM,
    TRANSFORMERS_5,
    Naming,
)

HEAD_DIM = 64  # of every published DINOv2
MODEL_TYPES = ("dinov2", "dinov2_with_registers")
MAX_LISTED = 50


def read_dinov2(
    checkpoint: Checkpoint,
    *,
    num_heads: int | None = None,
    layer_norm_eps: float | None = None,
) -> tuple[Architecture, dict[str, Any]]:
    """A ViT's architecture and float32 parameters at the checkpoint's own sizes.

    The position embedding of the class token, where the checkpoint has one, is added
    into the class token.

    Args:
      checkpoint: the opened file or folder.
      num_heads: attention heads; the config's, else embed_dim / 64.
      layer_norm_eps: the config's, else 1e-6.

    Raises:
      ValueError: another architecture, tensors missing, unknown, misshapen or not
        finite.
    """
    naming = detect_naming(checkpoint)
    registers = naming.stem["register_tokens"] in checkpoint.shapes
    mlp_type = _mlp_type(checkpoint, naming)
    depth = naming.depth(set(checkpoint.shapes))
    table = naming.table(depth=depth, mlp_type=mlp_type, registers=registers)
    _check_names(checkpoint, naming, table)
    architecture = _infer_architecture(
        checkpoint,
        table,
        class_position=not (naming is TIMM and registers),
        mlp_type=mlp_type,
        num_heads=num_heads,
        layer_norm_eps=layer_norm_eps,
    )
    _check_config(checkpoint, architecture)
    _check_shapes(checkpoint, table, architecture)

    params: dict[str, Any] = {}
    for path, names in table.items():
        parts = [checkpoint.read(name) for name in names]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        ours = np.ascontiguousarray(leaf(path).to_ours(whole, architecture))
        *modules, last = path.split("/")
        node = params
        for module in modules:
            node = node.setdefault(module, {})
        node[last] = ours
    positions = params["position_embedding"]
    if architecture.class_position:
        params["class_token"] = params["class_token"] + positions[:1]
        positions = positions[1:]
    params["position_embedding"] = positions.reshape(*architecture.grid_size, -1)
    return architecture, params


def detect_naming(checkpoint: Checkpoint) -> Naming:
    """Who named these tensors; ValueError if nobody we know."""
    names = set(checkpoint.shapes)
    if any(name.startswith("encoder.layer.") for name in names):
        new = any(".attention.q_proj." in name for name in names)
        return TRANSFORMERS_5 if new else HUGGING_FACE
    if any(name.startswith("blocks.") for name in names):
        if "reg_token" in names or _is_packed(checkpoint):
            return TIMM
        return HUB
    model_type = checkpoint.config.get("model_type")
    says = f", whose config.json says {model_type!r}," if model_type else ""
    raise ValueError(
        f"{checkpoint.path}{says} is no DINOv2 backbone that can be read: wanted the "
        "names of torch.hub or timm (blocks.0.…) or of Hugging Face's Dinov2Model "
        f"(encoder.layer.0.…), found {_listed(sorted(names)[:8])}."
    )


def _is_packed(checkpoint: Checkpoint) -> bool:
    """Whether fc1 and fc2 are timm's SwiGLU: fc1 then gives twice what fc2 takes."""
    up = checkpoint.shapes.get("blocks.0.mlp.fc1.weight", ())
    down = checkpoint.shapes.get("blocks.0.mlp.fc2.weight", ())
    return len(up) == 2 and len(down) == 2 and up[0] == 2 * down[1]


def _mlp_type(checkpoint: Checkpoint, naming: Naming) -> str:
    if naming is TIMM:  # has the same names for both
        return "swiglu" if _is_packed(checkpoint) else "gelu"
    table = naming.table(depth=1, mlp_type="swiglu", registers=False)
    gates = set(table["block_0/mlp/gate_up/kernel"])
    return "swiglu" if gates & set(checkpoint.shapes) else "gelu"


def _check_names(
    checkpoint: Checkpoint, naming: Naming, table: dict[str, tuple[str, ...]]
) -> None:
    wanted = {name for names in table.values() for name in names}
    found = set(checkpoint.shapes)
    missing, unknown = wanted - found, found - wanted - set(naming.ignored)
    if missing or unknown:
        raise ValueError(
            f"{checkpoint.path} is not {naming.title}. "
            f"Missing: {_listed(sorted(missing))}. "
            f"Unknown: {_listed(sorted(unknown))}."
        )


def _infer_architecture(
    checkpoint: Checkpoint,
    table: dict[str, tuple[str, ...]],
    *,
    class_position: bool,
    mlp_type: str,
    num_heads: int | None,
    layer_norm_eps: float | None,
) -> Architecture:
    def shape(path: str, rank: int) -> Shape:
        name = table[path][0]
        found = checkpoint.shapes[name]
        if len(found) != rank or 0 in found:
            raise ValueError(
                f"{checkpoint.path}: {name} has shape {found}; wanted {rank} "
                "dimensions, none of them 0."
            )
        return found

    _, num_positions, embed_dim = shape("position_embedding", 3)
    side = math.isqrt(max(0, num_positions - class_position))
    if side == 0 or side**2 + class_position != num_positions:
        raise ValueError(
            f"{checkpoint.path}: {table['position_embedding'][0]} has {num_positions} "
            f"positions; wanted a square number{' and 1' * class_position}."
        )
    registers = "register_tokens" in table
    config = checkpoint.config
    heads = num_heads or config.get("num_attention_heads") or embed_dim // HEAD_DIM
    if not isinstance(heads, int) or heads < 1 or embed_dim % heads:
        raise ValueError(
            f"{checkpoint.path}: its width {embed_dim} cannot be split into "
            f"{heads!r} heads; give num_heads=."
        )
    eps = layer_norm_eps or config.get("layer_norm_eps") or 1e-6
    if not isinstance(eps, float) or eps < 0:
        raise ValueError(
            f"{checkpoint.path}: layer_norm_eps = {eps!r}; wanted a small number."
        )
    return Architecture(
        embed_dim=embed_dim,
        depth=sum(path.endswith("/norm1/scale") for path in table),
        num_heads=heads,
        mlp_dim=shape("block_0/mlp/down/kernel", 2)[1],
        mlp_type=mlp_type,
        patch_size=shape("patch_embedding/kernel", 4)[-1],
        grid_size=(side, side),
        num_register_tokens=shape("register_tokens", 3)[1] if registers else 0,
        layer_norm_eps=eps,
        class_position=class_position,
    )


def _check_config(checkpoint: Checkpoint, architecture: Architecture) -> None:
    """The config.json of a Hugging Face folder must describe the same network."""
    a, config = architecture, checkpoint.config
    size = config.get("image_size")
    sizes = size if isinstance(size, list) else [size]
    if size is not None and any(
        not isinstance(side, int) or side // a.patch_size != a.grid_size[0]
        for side in sizes
    ):
        raise ValueError(
            f"{checkpoint.path}: config.json says image_size = {size!r}, the position "
            f"embedding is one for {a.grid_size} patches of {a.patch_size} pixels."
        )
    wanted = {
        "hidden_size": a.embed_dim,
        "num_hidden_layers": a.depth,
        "patch_size": a.patch_size,
        "num_register_tokens": a.num_register_tokens,
        "use_swiglu_ffn": a.mlp_type == "swiglu",
        "hidden_act": "gelu",
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{checkpoint.path}: config.json says {key} = {config[key]!r}, the "
                f"weights are those of a network with {value!r}."
            )
    if config.get("model_type", MODEL_TYPES[0]) not in MODEL_TYPES:
        raise ValueError(
            f"{checkpoint.path}: config.json says model_type = "
            f"{config['model_type']!r}; wanted {' or '.join(MODEL_TYPES)}."
        )


def _check_shapes(
    checkpoint: Checkpoint,
    table: dict[str, tuple[str, ...]],
    architecture: Architecture,
) -> None:
    for path, names in table.items():
        rows, *rest = leaf(path).shape(architecture)
        wanted = (rows // len(names), *rest)
        for name in names:
            found = checkpoint.shapes[name]
            if found != wanted:
                raise ValueError(
                    f"{checkpoint.path}: {name} has shape {found}; wanted {wanted}, "
                    f"for a ViT of width {architecture.embed_dim}."
                )


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
