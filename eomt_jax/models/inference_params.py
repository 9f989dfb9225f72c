"""Prepares parameters for inference, so that no call repeats a computation on them."""

from typing import Any

import flax.traverse_util
import jax.numpy as jnp

from eomt_jax.models.attention import QKV_BIASES, QKV_PARTS
from eomt_jax.models.kernels.attention import choose_kernel

# LayerScale multiplies the last layer of its branch of a block.
_SCALED_LAYERS = {
    "layer_scale1": ("attention", "out"),
    "layer_scale2": ("mlp", "down"),
}


def inference_params(params: Any, *, dtype: Any, head_dim: int, qkv_bias: str) -> Any:
    """Returns the parameters in the form in which a call is fastest.

    LayerScale is multiplied into the weights, all but the norms are cast, and the
    matrix of queries, keys and values is split if that is faster with the attention
    kernel. The result is for inference alone, and for devices like those that it was
    made on.

    Args:
      params: parameters of an EoMT or a ViT, in float32.
      dtype: type of activations.
      head_dim: channels of a head.
      qkv_bias: see attention.QkvProjection.
    """
    kernel = choose_kernel(dtype=jnp.dtype(dtype), head_dim=head_dim)
    flat: dict[Any, Any] = flax.traverse_util.flatten_dict(params)
    for path, value in list(flat.items()):
        if path[-1] in _SCALED_LAYERS:
            layer = (*path[:-1], *_SCALED_LAYERS[path[-1]])
            for name in ("kernel", "bias"):
                flat[*layer, name] = flat[*layer, name] * value
            del flat[path]
        elif path[-2:-1] == ("qkv",) and kernel.splits_products:
            parts = range(3) if path[-1] == "kernel" else QKV_BIASES[qkv_bias]
            pieces = jnp.moveaxis(value, -3, 0)
            for part, piece in zip(parts, pieces, strict=True):
                flat[*path[:-1], f"{QKV_PARTS[part]}_{path[-1]}"] = piece
            del flat[path]
    cast = {
        path: value if _is_of_norm(path) else value.astype(dtype)
        for path, value in flat.items()
    }
    return flax.traverse_util.unflatten_dict(cast)


def _is_of_norm(path: tuple[str, ...]) -> bool:
    """Returns whether a parameter is of a norm, which computes in float32 always."""
    return len(path) > 1 and path[-2] in ("norm", "norm1", "norm2")
