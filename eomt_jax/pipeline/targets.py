"""From a record's segments to the compact, padded targets of one sample."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Integer

SampleTargets = Mapping[str, np.ndarray]


def id_map_dtype(max_targets: int) -> type[np.unsignedinteger]:
    """Smallest that holds 0 … max_targets: uint8 keeps targets cheap to move."""
    return np.uint8 if max_targets <= np.iinfo(np.uint8).max else np.uint16


def visible_segments(
    id_map: Integer[np.ndarray, "H W"], num_segments: int
) -> Bool[np.ndarray, " T"]:
    """Segments with at least one pixel; pixel value t + 1 is segment t, 0 is none."""
    seen = np.zeros(num_segments + 1, bool)
    seen[id_map] = True
    return seen[1:]


def compact_targets(
    id_map: Integer[np.ndarray, "H W"],
    keep: Bool[np.ndarray, " T"],
    *,
    labels: Int[np.ndarray, " T"],
    is_crowd: Bool[np.ndarray, " T"],
    size: tuple[int, int],
    max_targets: int,
) -> SampleTargets:
    """Keeps some segments, renumbers them without gaps and pads.

    Args:
      id_map: 0 none, t + 1 segment t.
      keep: segments that become targets, in their order; pixels of the others become 0.
      labels: class index of each segment.
      is_crowd: of each segment.
      size: (height, width) of the padded id map; `id_map` lies in its top left.
      max_targets: rows of the padded vectors.

    Returns:
      id_map [*size], labels, valid and is_crowd [max_targets].
    """
    num_targets = int(keep.sum())
    check_num_targets(num_targets, max_targets)
    dtype = id_map_dtype(max_targets)
    renumbered = np.zeros(keep.size + 1, dtype)
    renumbered[1:][keep] = np.arange(1, num_targets + 1)
    height, width = id_map.shape
    padded_map = np.zeros(size, dtype)
    np.take(renumbered, id_map, out=padded_map[:height, :width])

    def pad(values: np.ndarray, dtype: type) -> np.ndarray:
        padded = np.zeros(max_targets, dtype)
        padded[:num_targets] = values
        return padded

    return {
        "id_map": padded_map,
        "labels": pad(labels[keep], np.int32),
        "valid": pad(np.ones(num_targets, bool), np.bool_),
        "is_crowd": pad(is_crowd[keep], np.bool_),
    }


def check_num_targets(num_targets: int, max_targets: int) -> None:
    """Targets are never left out to make them fit.

    Raises:
      ValueError: there are more than fit, naming the config field to turn.
    """
    if num_targets > max_targets:
        raise ValueError(
            f"{num_targets} targets, but room for {max_targets}: set "
            f"config.dataset.max_targets to {num_targets} or more, or to 0 for the "
            "most that any image of the prepared dataset has"
        )
