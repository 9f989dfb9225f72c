"""The fields of transformers' configs that describe our EoMT and its images.

Legend: M hidden width of the feed-forward.
"""

import dataclasses
import json
from typing import Any

from eomt_jax.models.attention import QKV_BIASES
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import IMAGENET_MEAN, IMAGENET_STD
from eomt_jax.task_registry import get_task
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.classes import CONFIG_KEY, SPLIT_KEY
from eomt_jax.weights.foreign.layouts import Architecture


def network_config(model: EoMT) -> dict[str, Any]:
    """Returns the fields of transformers' config that describe our network.

    Raises:
      ValueError: transformers has no such network.
    """
    vit = model.vit
    height, width = vit.image_size
    if height != width:
        raise ValueError(
            f"transformers' EoMT is built for square images alone, this one for "
            f"{height} x {width} pixels; load it with image_size=({width}, {width}), "
            "which resamples learned positions."
        )
    config = {
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.num_heads,
        "layer_norm_eps": vit.layer_norm_eps,
        "layerscale_value": vit.layer_scale_init,
        "image_size": height,
        "patch_size": vit.patch_size,
        "num_channels": 3,
        "num_register_tokens": vit.num_register_tokens,
        "num_upscale_blocks": architecture_of(model).num_upscale_blocks,
        "num_blocks": model.num_query_blocks,
        "num_queries": model.num_queries,
    }
    swiglu = vit.mlp_type == "swiglu"
    if vit.positions == "rotary":
        if swiglu:
            # transformers' config has one activation for feed-forward and heads.
            raise ValueError(
                "transformers' EoMT with a gated DINOv3 has SiLU in its heads too, where "
                "the release's and this one have GELU."
            )
        biased = QKV_BIASES[vit.qkv_bias]
        return config | {
            "model_type": "eomt_dinov3",
            "architectures": ["EomtDinov3ForUniversalSegmentation"],
            "hidden_act": "gelu",
            "intermediate_size": vit.mlp_dim,
            "use_gated_mlp": False,
            "query_bias": 0 in biased,
            "key_bias": 1 in biased,
            "value_bias": 2 in biased,
            "mlp_bias": True,
            "proj_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": vit.rope_theta},
            "pos_embed_rescale": vit.rope_rescale,
        }
    if vit.qkv_bias != "all":
        raise ValueError(
            "transformers' EoMT with learned positions has biases of queries, keys and "
            f"values; this one has qkv_bias = {vit.qkv_bias!r}."
        )
    return config | {
        "model_type": "eomt",
        "architectures": ["EomtForUniversalSegmentation"],
        "hidden_act": "gelu",
        "mlp_ratio": _mlp_ratio(vit.embed_dim, vit.mlp_dim, swiglu=swiglu),
        "use_swiglu_ffn": swiglu,
    }


def class_config(model: EoMT, info: DatasetInfo | None) -> dict[str, Any]:
    """Returns the fields of transformers' config that describe the classes."""
    # These are transformers' own placeholders.
    names = [f"LABEL_{i}" for i in range(model.num_classes)]
    own = {}
    if info:
        if info.num_classes != model.num_classes:
            raise ValueError(
                f"The model has {model.num_classes} classes, {info.name} has "
                f"{info.num_classes}."
            )
        names = [c.name for c in info.classes]
        own = {CONFIG_KEY: json.loads(info.to_json())}
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "dtype": "float32",
        **own,
    }


def processor_config(model: EoMT, info: DatasetInfo | None) -> dict[str, Any]:
    """Returns the published processing of images for the task.

    For semantic segmentation images are cut into windows along their long side; for the
    other tasks they are padded.
    """
    side = model.vit.image_size[0]
    windows = info is not None and get_task(info.task).windows
    return {
        "image_processor_type": "EomtImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side, "longest_edge": None if windows else side},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
        SPLIT_KEY: windows,
        "do_pad": not windows,
    }


def architecture_of(model: EoMT) -> Architecture:
    """Returns the sizes of our network, as a checkpoint's would be read."""
    own = {
        "num_queries": model.num_queries,
        "num_classes": model.num_classes,
        "class_position": False,
    }
    names = {field.name for field in dataclasses.fields(Architecture)} - own.keys()
    return Architecture(**{name: getattr(model.vit, name) for name in names}, **own)


def _mlp_ratio(embed_dim: int, mlp_dim: int, *, swiglu: bool) -> int:
    """Returns the whole number from which EomtConfig computes the hidden width M."""
    for ratio in range(1, 3 * mlp_dim // embed_dim + 2):
        hidden = ratio * embed_dim
        if swiglu:  # two thirds of it, in whole eights
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        if hidden == mlp_dim:
            return ratio
    rule = "two thirds of a multiple, rounded up to eights" if swiglu else "a multiple"
    raise ValueError(
        f"transformers' EoMT with learned positions has a feed-forward of {rule} of its "
        f"width {embed_dim}; this one's {mlp_dim} is none."
    )
