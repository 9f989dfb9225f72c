"""transformers' EoMT with the architecture and the weights of one of ours."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from eomt_jax.models.eomt import EoMT

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Weight:
    """A parameter of the reference.

    Attributes:
      path: of the parameter of ours that it is, or is part of.
      value: in the reference's layout.
    """

    path: str
    value: np.ndarray


def to_reference(params: PyTree) -> dict[str, Weight]:
    """Our parameter tree under transformers' names and in its layouts.

    Query, key and value are three parameters there, as are SwiGLU's gate and value.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    rules = _rules(swiglu=any("/gate_up/" in path for path in flat))
    weights = {}
    for path, value in flat.items():
        matches = [
            (match, name, layout)
            for pattern, name, layout in rules
            if (match := re.fullmatch(pattern, path))
        ]
        if not matches:
            raise ValueError(f"transformers' EoMT has no parameter for {path}")
        for match, name, layout in matches:
            weights[match.expand(name)] = Weight(path, layout(np.asarray(value)))
    if "vit/register_tokens" not in flat:
        # Always there in transformers; empty it adds nothing.
        width = np.asarray(flat["vit/class_token"]).shape[-1]
        empty = np.zeros((1, 0, width), np.float32)
        weights["embeddings.register_tokens"] = Weight("vit/class_token", empty)
    return weights


Rule = tuple[str, str, Callable[[np.ndarray], np.ndarray]]


def _rules(*, swiglu: bool) -> list[Rule]:
    """(pattern of our path, name there, layout there from ours)."""

    def same(x):
        return x

    def linear(path: str, name: str, kernel=np.transpose, bias=same) -> list[Rule]:
        return [
            (f"{path}/kernel", f"{name}.weight", kernel),
            (f"{path}/scale", f"{name}.weight", same),
            (f"{path}/bias", f"{name}.bias", bias),
        ]

    patches, block = "embeddings.patch_embeddings.projection", r"vit/block_(\d+)"
    rules = [
        *linear("vit/patch_embedding", patches, lambda x: x.transpose(3, 2, 0, 1)),
        (
            "vit/position_embedding",
            "embeddings.position_embeddings.weight",
            lambda x: x.reshape(-1, x.shape[-1]),
        ),
        ("vit/class_token", "embeddings.cls_token", lambda x: x[None]),
        ("vit/register_tokens", "embeddings.register_tokens", lambda x: x[None]),
        *linear("vit/norm", "layernorm"),
        *linear(rf"{block}/norm(\d)", r"layers.\1.norm\2"),
        (rf"{block}/layer_scale(\d)", r"layers.\1.layer_scale\2.lambda1", same),
        *linear(
            rf"{block}/attention/out",
            r"layers.\1.attention.out_proj",
            lambda x: x.reshape(-1, x.shape[-1]).T,
        ),
        *linear(rf"{block}/mlp/up", r"layers.\1.mlp.fc1"),
        *linear(
            rf"{block}/mlp/down",
            r"layers.\1.mlp.down_proj" if swiglu else r"layers.\1.mlp.fc2",
        ),
        ("queries", "query.weight", same),
        *linear("class_head", "class_predictor"),
        *linear(
            r"upscale/block_(\d+)/transposed",
            r"upscale_block.block.\1.conv1",
            lambda x: x.transpose(0, 3, 1, 2),
        ),
        *linear(
            r"upscale/block_(\d+)/depthwise",
            r"upscale_block.block.\1.conv2",
            lambda x: x.transpose(2, 0, 1)[:, None],
        ),
        *linear(r"upscale/block_(\d+)/norm", r"upscale_block.block.\1.layernorm2d"),
    ]
    for i in range(3):
        rules += linear(f"mask_head/layer_{i}", f"mask_head.fc{i + 1}")
        rules += linear(
            f"{block}/attention/qkv",
            rf"layers.\1.attention.{'qkv'[i]}_proj",
            lambda x, i=i: x[:, i].reshape(len(x), -1).T,
            lambda x, i=i: x[i].reshape(-1),
        )
    for i, name in enumerate(["gate", "up"]):
        rules += linear(
            f"{block}/mlp/gate_up",
            rf"layers.\1.mlp.{name}_proj",
            lambda x, i=i: np.split(x, 2, axis=-1)[i].T,
            lambda x, i=i: np.split(x, 2)[i],
        )
    return rules


def create_network(model: EoMT, weights: Mapping[str, Weight], criterion: Any) -> Any:
    """transformers' network with our architecture, weights and loss settings.

    Args:
      model: ours.
      weights: from `to_reference`.
      criterion: the recipe's `criterion`.
    """
    import torch
    import transformers

    vit = model.vit
    swiglu = vit.mlp_type == "swiglu"
    config = transformers.EomtConfig(
        hidden_size=vit.embed_dim,
        num_hidden_layers=vit.depth,
        num_attention_heads=vit.num_heads,
        # Of SwiGLU's hidden width it takes two thirds by itself.
        mlp_ratio=4 if swiglu else vit.mlp_dim // vit.embed_dim,
        use_swiglu_ffn=swiglu,
        layer_norm_eps=vit.layer_norm_eps,
        image_size=vit.image_size[0],
        patch_size=vit.patch_size,
        num_register_tokens=vit.num_register_tokens,
        num_upscale_blocks=sum(name.endswith(".conv2.weight") for name in weights),
        num_blocks=model.num_query_blocks,
        num_queries=model.num_queries,
        num_labels=model.num_classes,  # pyright: ignore
        train_num_points=criterion.num_points,
        oversample_ratio=criterion.oversample_ratio,
        importance_sample_ratio=criterion.importance_ratio,
        mask_weight=criterion.mask_weight,
        dice_weight=criterion.dice_weight,
        class_weight=criterion.class_weight,
        no_object_weight=criterion.no_object_weight,
    )
    network = transformers.EomtForUniversalSegmentation(config)
    parameters = dict(network.named_parameters())
    if parameters.keys() != weights.keys():
        raise ValueError(
            "transformers' EoMT has other parameters than ours: "
            f"{sorted(parameters.keys() ^ weights.keys())}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = torch.from_numpy(np.array(weights[name].value, np.float32))
            if parameter.shape != value.shape:
                raise ValueError(
                    f"{name} is {tuple(parameter.shape)} in transformers' EoMT and "
                    f"{tuple(value.shape)} in ours"
                )
            parameter.copy_(value)
    return network.train()
