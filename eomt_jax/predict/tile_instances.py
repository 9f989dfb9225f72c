"""Instances that were found in tiles become instances of the photograph.

Where two tiles overlap both see the same pixels. Instances of one class whose masks agree
there, by an IoU of one half, are one object: its mask is the union of its pieces, its
score their mean by area. An object of which three quarters lie inside a larger one of
its class is a part seen twice, a person's leg say, and dropped.

Legend: H W pixels, n instances.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Bool

from eomt_jax.postprocess.segmentation import Segmentation

_MIN_IOU = 0.5
_MAX_INSIDE = 0.75
_MAX_BYTES = 2**31
"""Of all masks at the photograph's size."""


class Tile(NamedTuple):
    """A rectangle of the photograph, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return max(0, self.bottom - self.top), max(0, self.right - self.left)

    def intersection(self, other: "Tile") -> "Tile":
        """Returns what both tiles cover; its size is 0 on some axis if that is nothing."""
        return Tile(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )


class Piece(NamedTuple):
    """A mask that is kept where it has pixels.

    Attributes:
      tile: in which it was found.
      label: class.
      score: 0 to 1.
      box: the mask's place in the photograph.
      mask: of the box.
    """

    tile: Tile
    label: int
    score: float
    box: Tile
    mask: Bool[np.ndarray, "h w"]

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    def part(self, place: Tile) -> Bool[np.ndarray, "h2 w2"]:
        """Returns the mask in another rectangle, False outside the box."""
        part = np.zeros(place.size, bool)
        common = self.box.intersection(place)
        if min(common.size) > 0:
            _crop(part, common, place)[:] = _crop(self.mask, common, self.box)
        return part


def cut_pieces(segmentation: Segmentation, tile: Tile) -> list[Piece]:
    """Returns the instances that were found in a tile."""
    assert segmentation.masks is not None
    assert segmentation.scores is not None
    pieces = []
    for mask, label, score in zip(
        segmentation.masks, segmentation.labels.tolist(), segmentation.scores.tolist()
    ):
        rows, columns = (np.flatnonzero(mask.any(axis)).tolist() for axis in (1, 0))
        if not rows:
            continue
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        box = Tile(
            tile.top + top, tile.left + left, tile.top + bottom, tile.left + right
        )
        pieces.append(
            Piece(tile, label, score, box, mask[top:bottom, left:right].copy())
        )
    return pieces


def join_pieces(pieces: Sequence[Piece], size: tuple[int, ...]) -> Segmentation:
    """Returns the instances of the photograph, best first.

    Args:
      pieces: of all tiles.
      size: (height, width) of the photograph.
    """
    objects = [_union(group) for group in _groups(pieces)]
    objects.sort(key=lambda one: one.area, reverse=True)
    kept: list[Piece] = []
    for one in objects:
        if not any(_lies_inside(one, other) for other in kept):
            kept.append(one)
    kept.sort(key=lambda one: one.score, reverse=True)
    height, width = size
    most = max(1, _MAX_BYTES // (height * width))
    if len(kept) > most:
        logging.warning(
            "%d instances on %d × %d pixels take too much memory; the best %d stay. "
            "Cut the photograph into parts to have all",
            *(len(kept), height, width, most),
        )
    kept = kept[:most]
    masks = np.zeros((len(kept), height, width), bool)
    for mask, one in zip(masks, kept):
        mask[one.box.top : one.box.bottom, one.box.left : one.box.right] = one.mask
    return Segmentation(
        labels=np.array([one.label for one in kept], np.int32),
        masks=masks,
        scores=np.array([one.score for one in kept], np.float32),
    )


def _groups(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Groups pieces by the object that they are of."""
    owner = list(range(len(pieces)))

    def root(i: int) -> int:
        while owner[i] != i:
            i = owner[i]
        return i

    by_tile: dict[Tile, list[int]] = {}
    for i, piece in enumerate(pieces):
        by_tile.setdefault(piece.tile, []).append(i)
    for one, other in itertools.combinations(by_tile, 2):
        strip = one.intersection(other)
        if min(strip.size) == 0:
            continue
        pairs = [
            (_iou(pieces[i].part(strip), pieces[j].part(strip)), i, j)
            for i, j in itertools.product(by_tile[one], by_tile[other])
            if pieces[i].label == pieces[j].label
        ]
        taken: set[int] = set()
        # The best agree first, each with one other.
        for iou, i, j in sorted(pairs, reverse=True):
            if iou >= _MIN_IOU and not {i, j} & taken:
                taken |= {i, j}
                owner[root(i)] = root(j)
    groups: dict[int, list[Piece]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(root(i), []).append(piece)
    return list(groups.values())


def _union(group: Sequence[Piece]) -> Piece:
    if len(group) == 1:
        return group[0]
    tops, lefts, bottoms, rights = zip(*(piece.box for piece in group))
    box = Tile(min(tops), min(lefts), max(bottoms), max(rights))
    mask = np.zeros(box.size, bool)
    for piece in group:
        _crop(mask, piece.box, box)[:] |= piece.mask
    areas = [piece.area for piece in group]
    score = float(np.average([piece.score for piece in group], weights=areas))
    return Piece(group[0].tile, group[0].label, score, box, mask)


def _lies_inside(one: Piece, other: Piece) -> bool:
    """Returns whether most of `one` lies in `other`, of the same class and no smaller."""
    if one.label != other.label or min(one.box.intersection(other.box).size) == 0:
        return False
    common = np.count_nonzero(one.mask & other.part(one.box))
    return bool(common >= _MAX_INSIDE * one.area)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 0.0


def _crop(array: np.ndarray, place: Tile, frame: Tile) -> np.ndarray:
    """Returns the part of an array that covers `frame`, where `place` lies; a view."""
    top, left = place.top - frame.top, place.left - frame.left
    height, width = place.size
    return array[top : top + height, left : left + width]
