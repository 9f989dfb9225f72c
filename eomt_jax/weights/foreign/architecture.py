"""Infers a checkpoint's network from the tensors' names and shapes and config.json.

It is strict: every tensor must be used or known to be useless, and every parameter of
ours must be found with the shape that the others imply.
"""

import math
from collections.abc import Iterable
from typing import Any

from eomt_jax.models.attention import QKV_BIASES
from eomt_jax.weights.foreign.config_json import check_config, config_size, config_theta
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.foreign.name_maps import Naming, Table
from eomt_jax.weights.formats.files import Checkpoint, Shape
from eomt_jax.weights.ranges import check_number
from eomt_jax.weights.wording import listed, shown

DEFAULT_SIZE = (224, 224)  # that DINOv3 was published with


def detect_naming(checkpoint: Checkpoint, namings: Iterable[Naming]) -> Naming | None:
    """Returns the naming with the most of the tensors; None if none names a block."""
    found = set(checkpoint.shapes)
    best, most = None, 0
    for naming in namings:
        if not naming.depth(found):
            continue
        table = _read_off(checkpoint, naming)
        known = len(found & {name for names in table.values() for name in names})
        if known > most:
            best, most = naming, known
    return best


def infer_architecture(
    checkpoint: Checkpoint,
    naming: Naming,
    *,
    num_heads: int | None = None,
    layer_norm_eps: float | None = None,
    rope_theta: float | None = None,
    image_size: tuple[int, int] | None = None,
) -> tuple[Architecture, Table]:
    """Returns the architecture and the names of its tensors, after checking them.

    Args:
      checkpoint: the opened file or folder.
      naming: the naming of its tensors.
      num_heads: attention heads; by default the config's, or those of DINOv2 and
        DINOv3.
      layer_norm_eps: by default the config's, or 1e-6, or 1e-5 with rotary positions.
      rope_theta: by default the config's, or 100.
      image_size: (height, width) of the position embedding, if the config doesn't have
        it and it isn't square. With rotary positions, the network's size if the config
        has none; by default 224 x 224.

    Raises:
      ValueError: tensors missing, unknown or misshapen, or a config.json of another
        network.
    """
    table = _read_off(checkpoint, naming)
    _check_names(checkpoint, naming, table)
    architecture = _infer(
        checkpoint, naming, table, num_heads, layer_norm_eps, rope_theta, image_size
    )
    table = naming.table_of(architecture)
    _check_names(checkpoint, naming, table)  # now with the upscaling that is wanted
    check_config(checkpoint, naming, architecture)
    _check_shapes(checkpoint, naming, table, architecture)
    return architecture, table


def _read_off(checkpoint: Checkpoint, naming: Naming) -> Table:
    """Returns the table of the network, with the choices that the names determine."""
    shapes = checkpoint.shapes
    registers = shapes.get(_only(naming.stem["register_tokens"]), ())
    upscale = naming.upscale.get("transposed/kernel", "")
    num_upscale_blocks = 0
    while upscale and _only(upscale, num_upscale_blocks) in shapes:
        num_upscale_blocks += 1
    return naming.table(
        depth=naming.depth(set(shapes)),
        mlp_type=_mlp_type(checkpoint, naming),
        # transformers has an empty tensor if there are no registers.
        registers=len(registers) == 3 and registers[1] > 0,
        qkv_bias=_qkv_bias(checkpoint, naming),
        num_upscale_blocks=num_upscale_blocks,
    )


def _only(names: str | tuple[str, ...], block: int = 0) -> str:
    """Returns the first name of a row, for one block."""
    name = names if isinstance(names, str) else names[0]
    return name.replace("{i}", str(block))


def _mlp_type(checkpoint: Checkpoint, naming: Naming) -> str:
    up = _only(naming.feed_forward["gelu"]["mlp/up/kernel"])
    gate_up = _only(naming.feed_forward["swiglu"]["mlp/gate_up/kernel"])
    if up != gate_up:
        return "swiglu" if gate_up in checkpoint.shapes else "gelu"
    # timm has the same names for both; the first layer of its SwiGLU has twice as many
    # outputs as the next layer has inputs.
    down = _only(naming.feed_forward["swiglu"]["mlp/down/kernel"])
    rows, columns = (checkpoint.shapes.get(name, ()) for name in (up, down))
    packed = len(rows) == len(columns) == 2 and rows[0] == 2 * columns[1]
    return "swiglu" if packed else "gelu"


def _qkv_bias(checkpoint: Checkpoint, naming: Naming) -> str:
    if naming.positions == "learned":
        return "all"
    names = naming.block["attention/qkv/bias"]
    there = tuple(i for i in range(3) if _only(names[i]) in checkpoint.shapes)
    kinds = [kind for kind, parts in QKV_BIASES.items() if parts == there]
    return kinds[0] if kinds else "all"  # whose missing ones are then listed


def _check_names(checkpoint: Checkpoint, naming: Naming, table: Table) -> None:
    wanted = {name for names in table.values() for name in names}
    found = set(checkpoint.shapes)
    useless = {*naming.ignored, naming.mask_probs}
    if f"{naming.vit_prefix}register_tokens" not in table:
        useless.add(_only(naming.stem["register_tokens"]))
    missing, unknown = wanted - found, found - wanted - useless
    if missing or unknown:
        raise ValueError(
            f"{checkpoint.path} is not {naming.title}. "
            f"Missing: {listed(sorted(missing))}. "
            f"Unknown: {listed(sorted(unknown))}."
        )


def _infer(
    checkpoint: Checkpoint,
    naming: Naming,
    table: Table,
    num_heads: int | None,
    layer_norm_eps: float | None,
    rope_theta: float | None,
    image_size: tuple[int, int] | None,
) -> Architecture:
    config = checkpoint.config

    def shape(path: str, rank: int) -> Shape:
        name = table[path][0]
        found = checkpoint.shapes[name]
        if len(found) != rank or 0 in found:
            raise ValueError(
                f"{checkpoint.path}: {name} has shape {found}; wanted {rank} "
                "dimensions, none of them 0."
            )
        return found

    vit = naming.vit_prefix
    embed_dim, _, _, patch_size = shape(f"{vit}patch_embedding/kernel", 4)
    registers = f"{vit}register_tokens" in table
    rotary = naming.positions == "rotary"
    class_position = not rotary and naming.class_position[registers]
    stored_size = config_size(checkpoint, patch_size)
    if rotary:
        size = stored_size or image_size or DEFAULT_SIZE
        grid_size = (size[0] // patch_size, size[1] // patch_size)
    else:
        name = table[f"{vit}position_embedding"][0]
        rank = 2 if f"{vit}position_embedding" in naming.layouts else 3
        num_positions = shape(f"{vit}position_embedding", rank)[-2]
        grid_size = _grid_size(
            f"{checkpoint.path}: {name}",
            num_positions,
            class_position=class_position,
            patch_size=patch_size,
            stored_size=stored_size,
            image_size=image_size,
        )
    # Only the 7B of DINOv3 and WebSSL have heads of twice the usual width.
    head_dim = 128 if embed_dim == 4096 else 64
    configured = config.get("num_attention_heads")
    if num_heads and configured not in (None, num_heads):
        raise ValueError(
            f"{checkpoint.path}: config.json says num_attention_heads = {shown(configured)}; "
            f"num_heads={num_heads} contradicts it."
        )
    heads = num_heads or configured or embed_dim // head_dim
    if not _is_count(heads) or embed_dim % heads or rotary and embed_dim // heads % 4:
        raise ValueError(
            f"{checkpoint.path}: its width {embed_dim} cannot be split into "
            f"{shown(heads)} heads; give num_heads=."
        )
    return Architecture(
        embed_dim=embed_dim,
        depth=sum(path.endswith("/norm1/scale") for path in table),
        num_heads=heads,
        mlp_dim=shape(f"{vit}block_0/mlp/down/kernel", 2)[1],
        mlp_type=_mlp_type(checkpoint, naming),
        patch_size=patch_size,
        grid_size=grid_size,
        num_register_tokens=shape(f"{vit}register_tokens", 3)[1] if registers else 0,
        layer_norm_eps=check_number(
            checkpoint.path,
            "layer_norm_eps",
            _first(
                layer_norm_eps,
                config.get("layer_norm_eps"),
                1e-5 if rotary else 1e-6,
            ),
        ),
        class_position=class_position,
        qkv_bias=_qkv_bias(checkpoint, naming),
        positions=naming.positions,
        rope_theta=check_number(
            checkpoint.path, "rope_theta", _first(rope_theta, config_theta(checkpoint))
        ),
        # The config's null means that training draws no factor.
        rope_rescale=check_number(
            checkpoint.path,
            "rope_rescale",
            _first(config.get("pos_embed_rescale", 2.0), 1.0),
        ),
        num_queries=shape("queries", 2)[0] if naming.heads else 0,
        num_classes=shape("class_head/kernel", 2)[0] - 1 if naming.heads else 0,
    )


def _first(*values: Any) -> Any:
    """Returns the first value that is not None."""
    return next(value for value in values if value is not None)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _grid_size(
    what: str,
    num_positions: int,
    *,
    class_position: bool,
    patch_size: int,
    stored_size: tuple[int, int] | None,
    image_size: tuple[int, int] | None,
) -> tuple[int, int]:
    """Returns (rows, columns) of a position embedding; messages call it `what`."""
    num_patches = num_positions - class_position
    if stored_size:
        rows, columns = (side // patch_size for side in stored_size)
        if rows * columns != num_patches:
            raise ValueError(
                f"{what} has {num_positions} positions; config.json says image_size = "
                f"{stored_size}, which are {rows} x {columns} patches of {patch_size} "
                f"pixels{' and a class token' * class_position}."
            )
        return rows, columns
    side = math.isqrt(max(0, num_patches))
    if side and side**2 == num_patches:
        return side, side
    if image_size:
        rows, columns = (length // patch_size for length in image_size)
        if rows * columns == num_patches > 0:
            return rows, columns
    raise ValueError(
        f"{what} has {num_positions} positions; wanted a square number"
        f"{' and 1' * class_position}, or image_size=(height, width) with as many "
        f"patches of {patch_size} pixels."
    )


def _check_shapes(
    checkpoint: Checkpoint, naming: Naming, table: Table, architecture: Architecture
) -> None:
    for path, names in table.items():
        rows, *rest = naming.layout(path).shape(architecture)
        wanted = (rows // len(names), *rest)
        for name in names:
            found = checkpoint.shapes[name]
            if found != wanted:
                raise ValueError(
                    f"{checkpoint.path}: {name} has shape {found}; wanted {wanted}, "
                    f"for a ViT of width {architecture.embed_dim}."
                )
