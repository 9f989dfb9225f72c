"""Resamples a ViT's weights to another patch and image size.

Everything is computed in float64 by small dense matrices and returned in the dtype of
the argument. If the size doesn't change, the array itself is returned.

Legend: p q patch sizes, h w patch grid, D embedding.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from eomt_jax.models.vit import ViT

CUBIC = -0.5  # Keys' a; PyTorch takes -0.75 without antialiasing and -0.5 with it


def bicubic_matrix(in_size: int, out_size: int) -> Float64[np.ndarray, "out in"]:
    """Returns the matrix of an antialiased bicubic resize of one axis.

    Pixels have half-pixel centres. When it shrinks, the kernel is stretched by in/out,
    so that it reaches every input sample. Each row sums to 1, also at the borders. It
    equals PyTorch's `interpolate(mode="bicubic", antialias=True)`.
    """
    stretch = max(in_size / out_size, 1.0)
    centers = (np.arange(out_size) + 0.5) * in_size / out_size
    samples = np.arange(in_size) + 0.5
    weights = _keys_kernel((samples[None] - centers[:, None]) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def resample_patch_kernel(
    kernel: Float[np.ndarray, "p p 3 D"], patch_size: int
) -> Float[np.ndarray, "q q 3 D"]:
    """Resamples a patch embedding's kernel by FlexiViT (arXiv 2212.08013).

    With B the matrix that resizes a patch, W' = (Bᵀ)⁺ W gives a resized patch the
    embedding of the patch, exactly when it grows and in the least-squares sense when it
    shrinks. B is a Kronecker product of the resizes of two axes, and so is its
    pseudo-inverse: each axis is computed by itself.
    """
    old_size = kernel.shape[0]
    if old_size == patch_size:
        return kernel
    inverse = np.linalg.pinv(bicubic_matrix(old_size, patch_size).T)
    out = np.einsum("yp,xq,pqcd->yxcd", inverse, inverse, kernel, optimize=True)
    return out.astype(kernel.dtype)


def resample_position_embedding(
    embedding: Float[np.ndarray, "h w D"], grid_size: tuple[int, int]
) -> Float[np.ndarray, "h2 w2 D"]:
    """Resamples a position embedding to another patch grid (rows, columns)."""
    old_rows, old_columns, _ = embedding.shape
    rows, columns = grid_size
    if (old_rows, old_columns) == (rows, columns):
        return embedding
    vertical = bicubic_matrix(old_rows, rows)
    horizontal = bicubic_matrix(old_columns, columns)
    out = np.einsum("yr,xc,rcd->yxd", vertical, horizontal, embedding, optimize=True)
    return out.astype(embedding.dtype)


def resample_vit(
    params: dict[str, Any], *, grid_size: tuple[int, int], patch_size: int
) -> dict[str, Any]:
    """Returns the parameter tree of a ViT with its size-dependent leaves resampled.

    They are the patch kernel and, unless positions are rotary, the position embedding.
    The argument is not changed; all other leaves are shared with it.
    """
    patch_embedding = params["patch_embedding"]
    kernel = resample_patch_kernel(patch_embedding["kernel"], patch_size)
    resampled: dict[str, Any] = {
        "patch_embedding": {**patch_embedding, "kernel": kernel}
    }
    if "position_embedding" in params:
        resampled["position_embedding"] = resample_position_embedding(
            params["position_embedding"], grid_size
        )
    return {**params, **resampled}


def resampled_params(stored: ViT, wanted: ViT) -> set[str]:
    """Returns the paths of the leaves that `resample_vit` changes between two sizes."""
    changed = set()
    if stored.patch_size != wanted.patch_size:
        changed.add("patch_embedding/kernel")
    if wanted.positions == "learned" and stored.grid_size != wanted.grid_size:
        changed.add("position_embedding")
    return changed


def _keys_kernel(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Returns Keys' cubic convolution kernel at x, which is 0 for |x| ≥ 2."""
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x**2 + 1
    far = CUBIC * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
