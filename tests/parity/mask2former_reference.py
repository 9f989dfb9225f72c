"""Makes parts of transformers' Mask2Former, and converts them to our parameter tree."""

import numpy as np
import torch
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as theirs

from tests.parity.random_networks import randomize

SIZES = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "num_attention_heads": 4,
    "dim_feedforward": 48,
    "num_queries": 7,
    "num_labels": 5,
}
LEVELS = (2, 3), (4, 6), (8, 12)


class Decoder(torch.nn.Module):
    """The transformer decoder with the class head, which the whole network has."""

    def __init__(self, in_features: int = 32, **overrides):
        super().__init__()
        config = Mask2FormerConfig(**{**SIZES, **overrides})
        self.transformer_module = theirs.Mask2FormerTransformerModule(
            in_features, config
        )
        self.class_predictor = torch.nn.Linear(config.hidden_dim, config.num_labels + 1)
        randomize(self)
        # With sharper attention the gradients of its keys are more than rounding.
        for layer in self.transformer_module.decoder.layers:
            layer.self_attn.q_proj.weight.data *= 3
            layer.cross_attn.in_proj_weight.data[: config.hidden_dim] *= 3

    def forward(self, levels, mask_features):
        """Returns all mask and class logits."""
        out = self.transformer_module(levels, mask_features, output_hidden_states=True)
        classes = [
            self.class_predictor(hidden.transpose(0, 1))
            for hidden in out.intermediate_hidden_states
        ]
        return out.masks_queries_logits, classes


def decoder_tree(tensors: dict[str, torch.Tensor]):
    """Converts the tensors of Decoder, or their gradients, to our parameter tree."""
    t = {
        name.removeprefix("transformer_module.").removeprefix("decoder."): np.array(
            value.detach()
        )
        for name, value in tensors.items()
    }

    def linear(name):
        weight = t[f"{name}.weight"]
        kernel = weight.reshape(len(weight), -1).T
        return {"kernel": kernel, "bias": t[f"{name}.bias"]}

    def norm(name):
        return {"scale": t[f"{name}.weight"], "bias": t[f"{name}.bias"]}

    def layer(name):
        joint = (t[f"{name}.cross_attn.in_proj_{part}"] for part in ("weight", "bias"))
        weights, biases = (np.split(array, 3) for array in joint)
        parts = ("query", "key", "value")
        cross = {
            part: {"kernel": weight.T, "bias": bias}
            for part, weight, bias in zip(parts, weights, biases)
        }
        return {
            "cross_attention": {**cross, "out": linear(f"{name}.cross_attn.out_proj")},
            "norm1": norm(f"{name}.cross_attn_layer_norm"),
            "self_attention": {
                part: linear(f"{name}.self_attn.{part[0]}_proj") for part in parts
            }
            | {"out": linear(f"{name}.self_attn.out_proj")},
            "norm2": norm(f"{name}.self_attn_layer_norm"),
            "mlp": {"up": linear(f"{name}.fc1"), "down": linear(f"{name}.fc2")},
            "norm3": norm(f"{name}.final_layer_norm"),
        }

    depth = 1 + max(int(name.split(".")[1]) for name in t if name.startswith("layers."))
    return {
        "queries": t["queries_features.weight"],
        "query_positions": t["queries_embedder.weight"],
        "level_embedding": t["level_embed.weight"],
        **{
            f"projection_{i}": linear(f"input_projections.{i}")
            for i in range(3)
            if f"input_projections.{i}.weight" in t
        },
        **{f"layer_{i}": layer(f"layers.{i}") for i in range(depth)},
        "norm": norm("layernorm"),
        "class_head": linear("class_predictor"),
        "mask_head": {
            f"layer_{i}": linear(f"mask_predictor.mask_embedder.{i}.0")
            for i in range(3)
        },
    }
