"""Samples target masks at points, without expanding the compact targets to masks.

Targets are compact (`eomt_jax.types.Targets`): one id map for each image where segments
don't overlap, one bit for each target where they may. A mask's value between pixels is
the summed weight of those of the four neighbours that belong to it.

Legend: B batch, N pairs, P points, T targets, H W pixels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eomt_jax.ops.points import IN_BOUNDS, neighbours
from eomt_jax.types import Targets


def sample_all(
    targets: Targets, points: Float[Array, "B P 2"]
) -> Float[Array, "B P T"]:
    """Samples all masks of each image, at the same points for all masks of an image.

    Args:
      targets: those of a batch; the value of a padded target is 0.
      points: (y, x) in [0, 1], a set for each image.
    """
    batch, num_points, _ = points.shape
    num_targets = targets.labels.shape[1]
    indices, weights = neighbours(points, _size(targets))
    pixels = _pixels(targets)
    image = jnp.arange(batch)[:, None]
    values = jnp.zeros((batch, num_points, num_targets))
    for k in range(4):
        found = pixels.at[image, indices[..., k]].get(**IN_BOUNDS)
        belongs = _belongs_to_each(targets, found, num_targets)
        values += jnp.where(belongs, weights[..., k, None], 0.0)
    return values


def sample_pairs(
    targets: Targets,
    points: Float[Array, "N P 2"],
    *,
    image: Int[Array, " N"],
    target: Int[Array, " N"],
) -> Float[Array, "N P"]:
    """Samples one mask of one image at its own points, for each of N pairs.

    Args:
      targets: those of a batch.
      points: (y, x) in [0, 1].
      image: index of the pair's image in the batch.
      target: index of the pair's target in that image.
    """
    indices, weights = neighbours(points, _size(targets))
    pixels = _pixels(targets)
    _, num_pixels, *num_bytes = pixels.shape
    # All axes are flattened into one, so that an index is one number: a TPU pads the
    # last axis of indices that have several coordinates to 128.
    pixels = pixels.reshape(-1)
    first, target = image[:, None] * num_pixels, target[:, None]
    values = jnp.zeros(points.shape[:-1])
    for k in range(4):
        place = first + indices[..., k]
        if num_bytes:
            place = place * num_bytes[0] + target // 8
            byte = pixels.at[place].get(**IN_BOUNDS)
            belongs = (byte >> (target % 8).astype(jnp.uint8)) & 1 == 1
        else:
            found = pixels.at[place].get(**IN_BOUNDS)
            belongs = found.astype(jnp.int32) == target + 1
        values += jnp.where(belongs, weights[..., k], 0.0)
    return values


def sample_known(
    targets: Targets, points: Float[Array, "N P 2"], *, image: Int[Array, " N"]
) -> Float[Array, "N P"]:
    """Returns 0 where a point is void and 1 elsewhere.

    Args:
      targets: those of a batch whose samples were made with `mark_void`.
      points: (y, x) in [0, 1].
      image: index of an image of the batch, for each set of points.
    """
    target = jnp.full_like(image, targets.labels.shape[1])
    void = sample_pairs(targets, points, image=image, target=target)
    # At the border some neighbours lie outside, and the weights sum to less than 1.
    _, weights = neighbours(points, _size(targets))
    return 1.0 - void / weights.sum(-1)


def _masks(targets: Targets) -> jax.Array:
    masks = targets.id_map if targets.id_map is not None else targets.mask_bits
    if masks is None:
        raise ValueError("these targets carry no masks: id_map and mask_bits are None")
    return jnp.asarray(masks)


def _size(targets: Targets) -> tuple[int, int]:
    _, height, width, *_ = _masks(targets).shape
    return height, width


def _pixels(targets: Targets) -> jax.Array:
    """Returns ids [B, H·W], or bits [B, H·W, T8]."""
    masks = _masks(targets)
    batch, height, width, *rest = masks.shape
    return masks.reshape(batch, height * width, *rest)


def _belongs_to_each(
    targets: Targets, found: jax.Array, num_targets: int
) -> Bool[Array, "B P T"]:
    if targets.id_map is not None:
        return found.astype(jnp.int32)[..., None] == jnp.arange(1, num_targets + 1)
    bits = jnp.unpackbits(found, axis=-1, bitorder="little")
    return bits[..., :num_targets] == 1
