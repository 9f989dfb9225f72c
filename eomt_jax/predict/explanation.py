"""Shows how the queries of a photograph's segments find them, prediction by prediction.

Legend: H W pixels of the picture, L predictions (one before each masked layer, and the
last), M layers whose attention is known, n segments, N of them with padding, S side of
the picture with padding, K classes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8
from PIL import Image

from eomt_jax.pictures.explanation import draw_explanation
from eomt_jax.pictures.outlines import pick_nearest
from eomt_jax.pictures.overlays import fit_long_side, resize_image
from eomt_jax.pictures.palette import segment_colors
from eomt_jax.pipeline.transforms import window_start
from eomt_jax.postprocess.geometry import (
    RestoreMatrices,
    restore_masks,
    restore_matrices,
)
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.logits import Predictions
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.result import Result, Segment
from eomt_jax.predict.tile_instances import Tile
from eomt_jax.predict.views import View
from eomt_jax.task_registry import get_task

NUM_SEGMENTS = 8
"""Most segments that are explained."""

LONG_SIDE = 640
"""Longest side of the masks in pixels; a network's mask logits have fewer."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Holds what the queries of the best segments predict, from first to last.

    Attributes:
      result: the photograph's segments, at its own size.
      image: the photograph, shrunk if a side is longer than LONG_SIDE.
      layers: names of the masked layers, such as "block 21". Each follows a prediction,
        and the last prediction follows all of them.
      chosen: positions in result.segments of those that are explained: the best, or the
        largest if segments have no scores, first.
      queries: number of each segment's query. If the photograph is seen in windows, it
        is that of the window that shows most of the segment.
      masks: probability that a pixel belongs to the query's mask. If the photograph is
        seen in windows, each has a query of its own; 0 in those without the segment.
      attention: how much the query attends to each pixel's patch in each masked layer,
        averaged over the heads; M is 0 if the network doesn't say.
      labels: the most probable class of each query; K stands for "no object".
      scores: probability of this class.
    """

    result: Result
    image: UInt8[np.ndarray, "H W 3"]
    layers: tuple[str, ...]
    chosen: Integer[np.ndarray, " n"]
    queries: Integer[np.ndarray, " n"]
    masks: Float[np.ndarray, "L n H W"]
    attention: Float[np.ndarray, "M n H W"]
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
        """Draws a row for each segment, with what its query predicts and attends to."""
        rows = [self.result.info.classes[k] for k in self.result.segmentation.labels]
        return draw_explanation(
            self.image,
            self.masks,
            self.attention,
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
    seen = [
        network.all_predictions(window, factored=factored) for window in view.windows
    ]
    segmentation = network.post_process(
        [of_window.logits[-1] for of_window in seen],
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

    num_predictions, num_maps = len(seen[0].logits), len(seen[0].attention)
    maps = np.zeros((num_predictions + num_maps, len(chosen), *size), np.float32)
    num_seen = np.zeros(size, np.float32)
    areas, queries, probs = [], [], []
    places = _places(view, task, size)
    for of_window, (place, content_size) in zip(seen, places, strict=True):
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
        maps[part] += found[1] * is_seen[:, None, None]
        num_seen[part[1:]] += 1
    maps /= num_seen
    best = np.argmax(areas, axis=0), np.arange(len(chosen))
    of_best = np.moveaxis(np.array(probs), 0, 1)[:, *best]
    return Explanation(
        result=result,
        image=resize_image(view.pixels, size),
        layers=network.masked_layer_names,
        chosen=chosen,
        queries=np.array(queries)[best],
        masks=maps[:num_predictions],
        attention=maps[num_predictions:],
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
    predictions: Predictions,
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
      predictions: for the input.
      inside: the segments' pixels in the picture, or in its part that the input shows.
      labels: the segments' classes.
      queries: the segments' queries; None if they are to be found.
      content_size: (height, width) of the input's part that shows the photograph.
      input_size: (height, width) of the input.

    Returns:
      Queries [n], masks and then attention [L + M, n, H, W], and class probabilities
      [L, n, K + 1].
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
    queries, maps, probs = (np.asarray(array) for array in found)
    return queries[:count], maps[:, :count, :height, :width], probs[:, :count]


def _follow_queries(
    predictions: Predictions,
    inside: Bool[jax.Array, "N S S"],
    labels: Int[jax.Array, " N"],
    queries: Int[jax.Array, " N"] | None,
    content_size: Int[jax.Array, " 2"],
    original_size: Int[jax.Array, " 2"],
    *,
    input_size: tuple[int, int],
) -> tuple[
    Int[jax.Array, " N"], Float[jax.Array, "LM N S S"], Float[jax.Array, "L N K1"]
]:
    """Computes what `_follow` returns, for padded arrays."""

    def restore(shape: tuple[int, ...]) -> RestoreMatrices:
        return restore_matrices(
            content_size,
            original_size,
            logits_size=(shape[-2], shape[-1]),
            image_size=input_size,
            canvas_size=(LONG_SIDE, LONG_SIDE),
        )

    mask_logits, class_logits = predictions.logits[-1]
    matrices = restore(mask_logits.shape)
    if queries is None:
        # A class scores σ(mask) · probability, summed over queries, on each pixel.
        weights = jnp.einsum("nYX,Yh,Xw->nhw", inside, matrices.rows, matrices.columns)
        probs = jax.nn.sigmoid(mask_logits[jnp.arange(len(class_logits))])
        shares = jnp.einsum("qhw,nhw->nq", probs, weights)
        queries = (shares * jax.nn.softmax(class_logits)[:, labels].T).argmax(1)
    masks = [
        jax.nn.sigmoid(restore_masks(masks[queries], matrices))
        for masks, _ in predictions.logits
    ]
    attention = [
        restore_masks(weights[queries], restore(weights.shape))
        for weights in predictions.attention
    ]
    probs = [jax.nn.softmax(classes[queries]) for _, classes in predictions.logits]
    return queries, jnp.stack([*masks, *attention]), jnp.stack(probs)
