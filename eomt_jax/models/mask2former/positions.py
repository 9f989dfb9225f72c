"""Sine embeddings of the positions of pixels.

Legend: h w map, D embedding.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_TEMPERATURE = 10000


def sine_positions(size: tuple[int, int], dim: int) -> Float[Array, "h w D"]:
    """Returns Mask2Former's embedding of each pixel's position, in float32.

    The first half of the channels tells rows apart and the second half columns, by
    sines at even and cosines at odd channels. Coordinates run from 2π / size to 2π.

    Args:
      size: (h, w).
      dim: D, a multiple of 4.
    """
    half = dim // 2
    waves = _TEMPERATURE ** (2 * (np.arange(half) // 2) / half)
    rows, columns = (
        _waves(np.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi, waves)
        for length in size
    )
    shape = (*size, half)
    both = np.broadcast_to(rows[:, None], shape), np.broadcast_to(columns, shape)
    return jnp.asarray(np.concatenate(both, -1), jnp.float32)


def _waves(positions: np.ndarray, waves: np.ndarray) -> np.ndarray:
    angles = positions[:, None] / waves
    even = np.arange(len(waves)) % 2 == 0
    return np.where(even, np.sin(angles), np.cos(angles))
