"""Makes transformers' EoMT with random parameters, and converts it to our tree."""

import numpy as np
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_blocks": 2,
    "image_size": 64,
    "patch_size": 16,
    "num_queries": 7,
    "num_labels": 5,
    "train_num_points": 64,
}


def reference_model(seed: int = 0, **overrides) -> EomtForUniversalSegmentation:
    """Returns a float32 network in training mode, with eager attention."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = EomtConfig(**{**SIZES, **overrides}, attn_implementation="eager")
    model = EomtForUniversalSegmentation(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            # transformers starts norms, scales and registers at constants, which
            # would hide a parameter that is read from the wrong place.
            if value.ndim < 2 or "token" in name or "position" in name:
                value.add_(0.3 * torch.randn_like(value))
    return model.train()


def to_tree(tensors: dict[str, torch.Tensor], num_heads: int, grid: tuple[int, int]):
    """Converts transformers' tensors, or their gradients, to our parameter tree."""
    t = {name: value.detach().numpy() for name, value in tensors.items()}

    def linear(name):
        return {"kernel": t[f"{name}.weight"].T, "bias": t[f"{name}.bias"]}

    def norm(name):
        return {"scale": t[f"{name}.weight"], "bias": t[f"{name}.bias"]}

    def heads(name):
        kernel = t[f"{name}.weight"].T
        return kernel.reshape(len(kernel), num_heads, -1)

    def block(i):
        layer = f"layers.{i}"
        attention = f"{layer}.attention"
        projections = [f"{attention}.{p}_proj" for p in "qkv"]
        out = t[f"{attention}.out_proj.weight"].T
        biases = [t[f"{p}.bias"].reshape(num_heads, -1) for p in projections]
        return {
            "norm1": norm(f"{layer}.norm1"),
            "attention": {
                "qkv": {
                    "kernel": np.stack([heads(p) for p in projections], 1),
                    "bias": np.stack(biases),
                },
                "out": {
                    "kernel": out.reshape(num_heads, -1, out.shape[-1]),
                    "bias": t[f"{attention}.out_proj.bias"],
                },
            },
            "layer_scale1": t[f"{layer}.layer_scale1.lambda1"],
            "norm2": norm(f"{layer}.norm2"),
            "mlp": {
                "up": linear(f"{layer}.mlp.fc1"),
                "down": linear(f"{layer}.mlp.fc2"),
            },
            "layer_scale2": t[f"{layer}.layer_scale2.lambda1"],
        }

    def upscale(i):
        layer = f"upscale_block.block.{i}"
        return {
            "transposed": {
                "kernel": t[f"{layer}.conv1.weight"].transpose(0, 2, 3, 1),
                "bias": t[f"{layer}.conv1.bias"],
            },
            "depthwise": {
                "kernel": t[f"{layer}.conv2.weight"][:, 0].transpose(1, 2, 0)
            },
            "norm": norm(f"{layer}.layernorm2d"),
        }

    patches = "embeddings.patch_embeddings.projection"
    positions = t["embeddings.position_embeddings.weight"]
    depth = 1 + max(int(n.split(".")[1]) for n in t if n.startswith("layers."))
    return {
        "vit": {
            "patch_embedding": {
                "kernel": t[f"{patches}.weight"].transpose(2, 3, 1, 0),
                "bias": t[f"{patches}.bias"],
            },
            "position_embedding": positions.reshape(*grid, -1),
            "class_token": t["embeddings.cls_token"][0],
            "register_tokens": t["embeddings.register_tokens"][0],
            **{f"block_{i}": block(i) for i in range(depth)},
            "norm": norm("layernorm"),
        },
        "queries": t["query.weight"],
        "class_head": linear("class_predictor"),
        "mask_head": {f"layer_{i}": linear(f"mask_head.fc{i + 1}") for i in range(3)},
        "upscale": {f"block_{i}": upscale(i) for i in range(2)},
    }


def to_pixel_values(images: np.ndarray) -> torch.Tensor:
    """Converts uint8 [B,H,W,3] to normalised float32 [B,3,H,W]."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    std = np.array([0.229, 0.224, 0.225], np.float32)
    pixels = (images.astype(np.float32) / 255 - mean) / std
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
