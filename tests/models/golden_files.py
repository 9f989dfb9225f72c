"""Reads numbers that other implementations computed, and PyTorch's layouts of weights."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "goldens"


def read_golden(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name; uint16 holds the bits of bfloat16."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    return {
        key: x.view(jnp.bfloat16).astype(np.float32) if x.dtype == np.uint16 else x
        for key, x in arrays.items()
    }


def to_nhwc(maps: np.ndarray) -> jax.Array:
    return jnp.asarray(maps.transpose(0, 2, 3, 1))


def our_layout(path: str, weight: np.ndarray) -> np.ndarray:
    """Returns PyTorch's weight of a convolution or linear layer in the layout of ours.

    Args:
      path: path of our parameter, which says what kind of layer it is.
      weight: PyTorch's array. A 1×1 convolution is a linear layer.
    """
    if not path.endswith("kernel"):
        return weight
    if "transposed" in path or "upscale" in path:
        return weight.transpose(0, 2, 3, 1)
    if "depthwise" in path:
        return weight[:, 0].transpose(1, 2, 0)
    if weight.ndim == 2 or weight.shape[2:] == (1, 1):
        return weight.reshape(weight.shape[:2]).T
    return weight.transpose(2, 3, 1, 0)
