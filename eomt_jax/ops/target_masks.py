"""Reading target masks at points without ever making the masks.

Targets travel as one id map an image (`eomt_jax.types.Targets`); a mask's value between
pixels is the summed weight of those of the four neighbours that carry its id.

Legend: B batch, N pairs, P points, T targets, H W pixels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer

from eomt_jax.ops.points import neighbours


def sample_all(
    id_map: Integer[Array, "H W"], points: Float[Array, "P 2"], *, num_targets: int
) -> Float[Array, "P T"]:
    """The masks of all of one image's targets at the same points.

    Args:
      id_map: 0 for none, t + 1 for target t.
      points: (y, x) in [0, 1].
      num_targets: T.
    """
    height, width = id_map.shape
    indices, weights = neighbours(points, (height, width))
    ids = id_map.reshape(-1)[indices].astype(jnp.int32)
    targets = jnp.arange(1, num_targets + 1)
    values = jnp.zeros((len(points), num_targets))
    for k in range(4):
        values += jnp.where(ids[:, k, None] == targets, weights[:, k, None], 0.0)
    return values


def sample_each(
    id_maps: Integer[Array, "B H W"],
    points: Float[Array, "N P 2"],
    *,
    image: Int[Array, " N"],
    target: Int[Array, " N"],
) -> Float[Array, "N P"]:
    """One mask of one image at its own points, for each of N pairs.

    Args:
      id_maps: 0 for none, t + 1 for target t.
      points: (y, x) in [0, 1].
      image: which of the B id maps.
      target: which target of that image, from 0.
    """
    batch, height, width = id_maps.shape
    indices, weights = neighbours(points, (height, width))
    flat = id_maps.reshape(batch, height * width)
    ids = flat[image[:, None, None], indices].astype(jnp.int32)
    return jnp.where(ids == target[:, None, None] + 1, weights, 0.0).sum(-1)
