"""Shows how the queries of a photograph's segments find them, prediction by prediction.

Legend: H W pixels of the picture, L predictions (one before each masked layer, and the
last), n segments, N of them with padding, S side of the picture with padding, Q queries,
K classes, h4 w4 the mask logits' size.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8
from PIL import Image

from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.pictures.explanation import draw_explanation
from eomt_jax.pictures.outlines import pick_nearest
from eomt_jax.pictures.overlays import fit_long_side, resize_image
from eomt_jax.pictures.palette import segment_colors
from eomt_jax.pipeline.transforms import window_start
from eomt_jax.postprocess.geometry import restore_masks, restore_matrices
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.result import Result, Segment
from eomt_jax.predict.tile_instances import Tile
from eomt_jax.predict.views import View
from eomt_jax.task_registry import get_task

NUM_SEGMENTS = 8
"""Most segments that are explained."""

LONG_SIDE = 640
"""Longest side of the masks in pixels; a network's mask logits have fewer."""

Prediction = tuple[Float[jax.Array, "Q h4 w4"] | MaskFactors, Float[jax.Array, "Q K1"]]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Holds what the queries of the best segments predict, from first to last.

    Attributes:
      result: the photograph's segments, at its own size.
      image: the photograph, shrunk if a side is longer than LONG_SIDE.
      layers: names of the predictions, such as "before block 21", ending with "final".
      chosen: positions in result.segments of those that are explained: the best, or the
        largest if segments have no scores, first.
      queries: number of each segment's query. If the photograph is seen in windows, it
        is that of the window that shows most of the segment.
      masks: probability that a pixel belongs to the query's mask. If the photograph is
        seen in windows, each has a query of its own; 0 in those without the segment.
      labels: the most probable class of each query; K stands for "no object".
      scores: probability of this class.
    """

    result: Result
    image: UInt8[np.ndarray, "H W 3"]
    layers: tuple[str, ...]
    chosen: Integer[np.ndarray, " n"]
    queries: Integer[np.ndarray, " n"]
    masks: Float[np.ndarray, "L n H W"]
    labels: Integer[np.ndarray, "L n"]
    scores: Float[np.ndarray, "L n"]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Returns the segments that are explained."""
        return tuple(self.result.segments[i] for i in self.chosen)

    @property
    def class_names(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of `labels`."""
        names = [*(row.name for row in self.result.info.classes), "no object"]
        return tuple(tuple(names[label] for label in row) for row in self.labels)

    def draw(self) -> Image.Image:
        """Draws a row for each segment, with its query's mask in each prediction."""
        rows = [self.result.info.classes[k] for k in self.result.segmentation.labels]
        return draw_explanation(
            self.image,
            self.masks,
            layers=self.layers,
            segments=[(segment.class_name, segment.score) for segment in self.segments],
            queries=self.queries.tolist(),
            classes=self.class_names,
            scores=self.scores,
            colors=segment_colors(rows)[self.chosen],
        )


def explain(
    network: CompiledNetwork, view: View, task: str, *, threshold: float
) -> Explanation:
    """Explains the segments of a photograph.

    Args:
      network: the model.
      view: made for the task, not in tiles.
      task: what the segments are.
      threshold: score from which on a segment counts.
    """
    height, width, _ = view.windows[0].shape
    factored = not get_task(task).windows
    predictions = [
        network.all_logits(window, factored=factored) for window in view.windows
    ]
    segmentation = network.post_process(
        [of_window[-1] for of_window in predictions],
        view.content_size,
        view.size,
        task,
        threshold,
        input_size=(height, width),
    )
    result = Result(view.pixels, segmentation, network.info, task, view.name)
    size = fit_long_side(view.size, min(max(view.size), LONG_SIDE))
    chosen = _best_segments(result)
    inside = _segment_masks(segmentation, chosen, size)

    places = _places(view, task, size)
    masks = np.zeros((len(network.prediction_names), len(chosen), *size), np.float32)
    num_seen = np.zeros(size, np.float32)
    areas, queries, probs = [], [], []
    for of_window, (place, content_size) in zip(predictions, places, strict=True):
        part = np.s_[..., place.top : place.bottom, place.left : place.right]
        found = _follow(
            network,
            of_window,
            inside[part],
            segmentation.labels[chosen],
            None if segmentation.queries is None else segmentation.queries[chosen],
            content_size=content_size,
            input_size=(height, width),
        )
        areas.append(inside[part].sum((1, 2)))
        queries.append(found[0])
        probs.append(found[2])
        is_seen = (areas[-1] > 0) | (len(places) == 1)
        masks[part] += found[1] * is_seen[:, None, None]
        num_seen[part[1:]] += 1
    best = np.argmax(areas, axis=0), np.arange(len(chosen))
    of_best = np.moveaxis(np.array(probs), 0, 1)[:, *best]
    return Explanation(
        result=result,
        image=resize_image(view.pixels, size),
        layers=network.prediction_names,
        chosen=chosen,
        queries=np.array(queries)[best],
        masks=masks / num_seen,
        labels=of_best.argmax(-1),
        scores=of_best.max(-1),
    )


def _best_segments(result: Result) -> Integer[np.ndarray, " n"]:
    """Returns the positions of the best segments, or of the largest without scores."""
    ranks = result.segmentation.scores
    if ranks is None:
        ranks = np.array([segment.area for segment in result.segments])
    return np.argsort(-ranks, kind="stable")[:NUM_SEGMENTS]


def _segment_masks(
    segmentation: Segmentation, chosen: Integer[np.ndarray, " n"], size: tuple[int, int]
) -> Bool[np.ndarray, "n H W"]:
    """Returns the masks of the chosen segments at the picture's size."""
    if segmentation.id_map is not None:
        return pick_nearest(segmentation.id_map, size) == chosen[:, None, None] + 1
    assert segmentation.masks is not None
    masks = [pick_nearest(segmentation.masks[i], size) for i in chosen]
    return np.array(masks, bool).reshape(-1, *size)


def _places(
    view: View, task: str, size: tuple[int, int]
) -> list[tuple[Tile, tuple[int, int]]]:
    """Returns where each window lies in the picture, and its content's size."""
    height, width = size
    if not get_task(task).windows:
        return [(Tile(0, 0, height, width), view.content_size)]
    long_side = max(view.content_size)
    places = []
    for j, window in enumerate(view.windows):
        side = len(window)
        start = window_start(j, long_side, side)
        begin, end = (round(x * max(size) / long_side) for x in (start, start + side))
        place = (
            Tile(begin, 0, end, width)
            if height > width
            else Tile(0, begin, height, end)
        )
        places.append((place, (side, side)))
    return places


def _follow(
    network: CompiledNetwork,
    predictions: Sequence[Prediction],
    inside: Bool[np.ndarray, "n H W"],
    labels: Integer[np.ndarray, " n"],
    queries: Integer[np.ndarray, " n"] | None,
    *,
    content_size: tuple[int, int],
    input_size: tuple[int, int],
) -> tuple[np.ndarray, ...]:
    """Returns what the queries of segments predict for one input of the network.

    Args:
      network: the model.
      predictions: of the input, first to last.
      inside: the segments' pixels in the picture, or in its part that the input shows.
      labels: the segments' classes.
      queries: the segments' queries; None if they are to be found.
      content_size: (height, width) of the input's part that shows the photograph.
      input_size: (height, width) of the input.

    Returns:
      Queries [n], masks [L, n, H, W] and class probabilities [L, n, K + 1].
    """
    count, height, width = inside.shape
    padded = np.zeros((NUM_SEGMENTS, LONG_SIDE, LONG_SIDE), bool)
    padded[:count, :height, :width] = inside
    more = (0, NUM_SEGMENTS - count)
    found = network.run(
        ("explain", input_size, queries is None),
        functools.partial(_follow_queries, input_size=input_size),
        predictions,
        padded,
        np.pad(labels, more).astype(np.int32),
        None if queries is None else np.pad(queries, more).astype(np.int32),
        np.array(content_size, np.int32),
        np.array((height, width), np.int32),
    )
    queries, masks, probs = (np.asarray(array) for array in found)
    return queries[:count], masks[:, :count, :height, :width], probs[:, :count]


def _follow_queries(
    predictions: Sequence[Prediction],
    inside: Bool[jax.Array, "N S S"],
    labels: Int[jax.Array, " N"],
    queries: Int[jax.Array, " N"] | None,
    content_size: Int[jax.Array, " 2"],
    original_size: Int[jax.Array, " 2"],
    *,
    input_size: tuple[int, int],
) -> tuple[
    Int[jax.Array, " N"], Float[jax.Array, "L N S S"], Float[jax.Array, "L N K1"]
]:
    """Computes what `_follow` returns, for padded arrays."""
    mask_logits, class_logits = predictions[-1]
    _, logits_height, logits_width = mask_logits.shape
    restore = restore_matrices(
        content_size,
        original_size,
        logits_size=(logits_height, logits_width),
        image_size=input_size,
        canvas_size=(LONG_SIDE, LONG_SIDE),
    )
    if queries is None:
        # A class scores σ(mask) · probability, summed over queries, on each pixel.
        weights = jnp.einsum("nYX,Yh,Xw->nhw", inside, restore.rows, restore.columns)
        probs = jax.nn.sigmoid(mask_logits[jnp.arange(len(class_logits))])
        shares = jnp.einsum("qhw,nhw->nq", probs, weights)
        queries = (shares * jax.nn.softmax(class_logits)[:, labels].T).argmax(1)
    masks = [
        jax.nn.sigmoid(restore_masks(masks[queries], restore))
        for masks, _ in predictions
    ]
    probs = [jax.nn.softmax(classes[queries]) for _, classes in predictions]
    return queries, jnp.stack(masks), jnp.stack(probs)
