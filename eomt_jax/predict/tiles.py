"""Segments large photographs at their own scale, tile by tile.

Fitted into the network's input, a photograph of 4000 × 3000 pixels loses all that is
small. Here the network sees square tiles of its own size, cut without resizing, that
overlap by a quarter or more. What an object larger than a tile is, it cannot see.

Legend: S side of a tile and of the network's input, H W the photograph's pixels, Q
queries, K classes, h4 w4 the mask logits' size.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.postprocess.semantic import (
    Taps,
    empty_maps,
    mix_columns,
    mix_rows,
    resize_taps,
    update_maps,
)
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.tile_instances import Piece, Tile, cut_pieces, join_pieces
from eomt_jax.task_registry import get_task
from eomt_jax.types import Array, DatasetInfo

_OVERLAP = 1 / 4
"""Least part of a tile that its neighbour covers too."""

_USUAL_SCALES = 0.5, 2.0
"""Most recipes resize photographs at random by factors between these two."""

_STRIP = (32, 128)
"""Rows and columns of a cell whose class scores are computed at a time."""


def classes_of_tiles(
    network: CompiledNetwork,
    pixels: UInt8[np.ndarray, "H W 3"],
    *,
    threshold: float = 0.0,
) -> Segmentation:
    """Returns semantic segments; class scores are averaged where tiles overlap.

    Args:
      network: the model.
      pixels: the photograph.
      threshold: ignored, because classes of pixels have no scores.
    """
    del threshold
    rows = tile_rows(pixels.shape[:2], network.image_size)
    label_map, *confidence = _maps(network, pixels, rows)
    return Segmentation.from_label_map(
        label_map, confidence=next(iter(confidence), None)
    )


def instances_of_tiles(
    network: CompiledNetwork, pixels: UInt8[np.ndarray, "H W 3"], *, threshold: float
) -> Segmentation:
    """Returns instances, found in each tile and joined as in tile_instances.

    Args:
      network: the model.
      pixels: the photograph.
      threshold: score from which on an instance counts.
    """
    pieces: list[Piece] = []
    for row in tile_rows(pixels.shape[:2], network.image_size):
        images = [_cut(pixels, tile, network.image_size) for tile in row]
        for tile, logits in zip(row, network.logits(images), strict=True):
            size = tile.size
            found = network.post_process([logits], size, size, "instance", threshold)
            pieces += cut_pieces(found, tile)
    return join_pieces(pieces, pixels.shape[:2])


def tile_note(info: DatasetInfo, side: int, *, name: str, size: tuple[int, int]) -> str:
    """Returns a note if tiles have a scale far from training's, or "".

    Tiles show a photograph at its own scale. Training resizes its longer side to the
    network's input, or the shorter one for tasks that look at windows.

    Args:
      info: of the training, with the size of its largest photograph where it is known.
      side: of a tile and of the network's input.
      name: of a photograph, which counts where that size isn't known; may be "".
      size: its (height, width).
    """
    choose = min if get_task(info.task).windows else max
    is_known = all(info.max_image_size)
    height, width = info.max_image_size if is_known else size
    factor = choose(height, width) / side
    smallest, largest = _USUAL_SCALES
    if smallest <= factor <= largest:
        return ""
    if is_known:
        trained = f"{info.name}'s photographs, of up to {height} × {width} pixels, were"
    else:
        like = f" like {name[-200:]!a}" if name else ""
        trained = f"photographs of {height} × {width} pixels{like} are"
    advice = "predict without tiles, or enlarge the photographs"
    if factor > 1:
        advice = (
            "predict without tiles, or shrink the photographs; or train on photographs "
            f"that are cut into pieces of {side} × {side} pixels"
        )
    return (
        f"tiles show photographs at scale 1, and in training {trained} fitted into {side} "
        f"pixels, at scale {1 / factor:.2g}: objects are {factor:.2g} times as large in "
        f"tiles as in training. Where masks are poor, {advice}"
    )


def tile_rows(size: tuple[int, ...], side: int) -> list[list[Tile]]:
    """Returns tiles that cover a photograph of `size`, row by row."""
    tops, lefts = (tile_starts(length, side) for length in size)
    return [
        [Tile(y, x, min(y + side, size[0]), min(x + side, size[1])) for x in lefts]
        for y in tops
    ]


def tile_starts(length: int, side: int) -> list[int]:
    """Returns where tiles begin on an axis: evenly spread, the last ends with it."""
    if length <= side:
        return [0]
    step = side - int(_OVERLAP * side)
    gaps = -(-(length - side) // step)
    return [i * (length - side) // gaps for i in range(gaps + 1)]


def _cut(
    pixels: UInt8[np.ndarray, "H W 3"], tile: Tile, side: int
) -> UInt8[np.ndarray, "S S 3"]:
    image = np.zeros((side, side, 3), np.uint8)
    height, width = tile.size
    image[:height, :width] = pixels[tile.top : tile.bottom, tile.left : tile.right]
    return image


def _maps(
    network: CompiledNetwork, pixels: UInt8[np.ndarray, "H W 3"], rows: list[list[Tile]]
) -> list[np.ndarray]:
    """Returns the best class of each pixel, and its confidence if the network has one.

    The maps [H, W] are computed cell by cell.

    A cell is what the same tiles see. The scores of all classes at the photograph's own
    size would take gigabytes; those of a cell's strip exist at a time, and of the
    network's logits those of two or three rows of tiles.
    """
    side = network.image_size
    kind = network.confidence
    maps = [np.array(values) for values in empty_maps(pixels.shape[:2], kind)]
    logits: dict[Tile, Any] = {}
    columns = _edges([(tile.left, tile.right) for tile in rows[0]])
    spans = [(row[0].top, row[0].bottom) for row in rows]
    for top, bottom in itertools.pairwise(_edges(spans)):
        seeing = [
            row
            for row, (begin, end) in zip(rows, spans)
            if begin <= top and bottom <= end
        ]
        wanted = list(itertools.chain.from_iterable(seeing))
        logits = {tile: logits[tile] for tile in wanted if tile in logits}
        missing = [tile for tile in wanted if tile not in logits]
        images = [_cut(pixels, tile, side) for tile in missing]
        logits.update(zip(missing, network.logits(images), strict=True))
        for left, right in itertools.pairwise(columns):
            cell = Tile(top, left, bottom, right)
            over = [t for t in wanted if t.left <= left and right <= t.right]
            found = network.run(
                ("tile", len(over)),
                functools.partial(_score_cell, side=side, confidence=kind),
                [logits[tile] for tile in over],
                np.array([(top - t.top, left - t.left) for t in over], np.int32),
                np.array(cell.size, np.int32),
            )
            height, width = cell.size
            for values, part in zip(maps, found, strict=True):
                values[top:bottom, left:right] = np.asarray(part)[:height, :width]
    return maps


def _edges(spans: Sequence[tuple[int, int]]) -> list[int]:
    return sorted(set(itertools.chain.from_iterable(spans)))


def _score_cell(
    tiles: list[tuple[Float[Array, "Q h4 w4"], Float[Array, "Q K1"]]],
    offsets: Int[Array, "n 2"],
    cell_size: Int[Array, " 2"],
    *,
    side: int,
    confidence: str,
) -> tuple[Array, ...]:
    """Returns a cell's maps, in the top left of a tile or a little more.

    The rest of the maps [Y, X] is arbitrary. A tile scores as a window does in
    semantic_segmentation.

    Args:
      tiles: logits of those that see the cell.
      offsets: (y, x) of the cell in each.
      cell_size: (height, width).
      side: S.
      confidence: kind of confidence that is wanted too, or "".
    """
    num_rows, num_columns = _STRIP
    logits = [jnp.moveaxis(mask_logits, 0, -1) for mask_logits, _ in tiles]
    probs = [jax.nn.softmax(x.astype(jnp.float32), axis=-1)[:, :-1] for _, x in tiles]
    heights, widths = (resize_taps(n, side, side) for n in logits[0].shape[:2])

    def fill_strip(i: Array, maps: tuple[Array, ...]) -> tuple[Array, ...]:
        y = i * num_rows + jnp.arange(num_rows)
        strips = [
            mix_rows(masks, _take(heights, y + offset))
            for masks, offset in zip(logits, offsets[:, 0])
        ]

        def fill_block(k: Array, maps: tuple[Array, ...]) -> tuple[Array, ...]:
            x = k * num_columns + jnp.arange(num_columns)
            scores = [
                jnp.einsum(
                    "RXq,qk->RXk",
                    jax.nn.sigmoid(mix_columns(strip, _take(widths, x + offset))),
                    classes,
                    precision=jax.lax.Precision.HIGHEST,
                )
                for strip, classes, offset in zip(strips, probs, offsets[:, 1])
            ]
            mean = jnp.asarray(sum(scores)) / len(tiles)
            return update_maps(maps, mean, confidence, place=(y[0], x[0]))

        return jax.lax.fori_loop(0, -(-cell_size[1] // num_columns), fill_block, maps)

    maps = empty_maps(tuple(-(-side // count) * count for count in _STRIP), confidence)
    return jax.lax.fori_loop(0, -(-cell_size[0] // num_rows), fill_strip, maps)


def _take(taps: Taps, pixels: Int[Array, " n"]) -> Taps:
    """Returns the taps of some pixels; past the tile those of its last pixel."""
    pixels = jnp.clip(pixels, 0, len(taps.source) - 1)
    return Taps(taps.source[pixels], taps.weight[pixels])
