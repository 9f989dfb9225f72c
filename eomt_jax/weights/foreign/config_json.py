"""Reads the config.json beside a checkpoint, and checks it against the weights."""

from typing import Any

from eomt_jax.models.attention import QKV_BIASES
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.foreign.name_maps import Naming
from eomt_jax.weights.formats.files import Checkpoint
from eomt_jax.weights.wording import shown


def config_size(checkpoint: Checkpoint, patch_size: int) -> tuple[int, int] | None:
    """Returns the (height, width) of a config.json in whole patches, if it has one."""
    size = checkpoint.config.get("image_size")
    if size is None:
        return None
    sides = [size, size] if type(size) is int else size
    if (
        not isinstance(sides, list)
        or len(sides) != 2
        or not all(type(side) is int and side >= patch_size for side in sides)
    ):
        raise ValueError(
            f"{checkpoint.path}: config.json says image_size = {shown(size)}; wanted the "
            f"pixels of a side, or of height and width, at least {patch_size}."
        )
    return sides[0], sides[1]


def config_theta(checkpoint: Checkpoint) -> Any:
    """Returns the base of the rotary periods, from either of its places."""
    config = checkpoint.config
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"{checkpoint.path}: config.json says rope_parameters = {shown(rope)}; wanted "
            "rope_type default."
        )
    moved = rope.get("rope_theta", 100.0)
    given = config.get("rope_theta")
    return moved if given is None else given


def check_config(
    checkpoint: Checkpoint, naming: Naming, architecture: Architecture
) -> None:
    """Raises ValueError if a Hugging Face config.json describes another network."""
    a, config = architecture, checkpoint.config
    types = naming.model_types
    if types and config.get("model_type", types[0]) not in types:
        raise ValueError(
            f"{checkpoint.path}: config.json says model_type = "
            f"{shown(config['model_type'])}; the weights are those of {' or '.join(types)}."
        )
    gated, rotary = a.mlp_type == "swiglu", a.positions == "rotary"
    if gated and "eomt_dinov3" in types:
        raise ValueError(
            f"{checkpoint.path} is transformers' EoMT with a gated DINOv3. There the "
            "activation of the feed-forward, SiLU, is that of the heads too, while "
            "those of the release and of this library have GELU."
        )
    wanted = {
        "hidden_size": a.embed_dim,
        "num_hidden_layers": a.depth,
        "patch_size": a.patch_size,
        "num_register_tokens": a.num_register_tokens,
        "num_channels": 3,
        # A SwiGLU of DINOv2 has SiLU, whatever the config says.
        "hidden_act": "silu" if gated and rotary else "gelu",
        "use_gated_mlp" if rotary else "use_swiglu_ffn": gated,
    }
    if rotary:
        biased = QKV_BIASES[a.qkv_bias]
        wanted["intermediate_size"] = a.mlp_dim
        for part, name in enumerate(("query_bias", "key_bias", "value_bias")):
            wanted[name] = part in biased
    if naming.heads:
        wanted["num_queries"] = a.num_queries
        wanted["num_upscale_blocks"] = a.num_upscale_blocks
    for key, value in wanted.items():
        found = config.get(key, value)
        if found != value and found != [value, value]:
            raise ValueError(
                f"{checkpoint.path}: config.json says {key} = {shown(found)}, the weights "
                f"are those of a network with {value!r}."
            )
