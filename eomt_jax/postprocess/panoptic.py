"""Panoptic post-processing: from one prediction's logits to one id map an image.

Legend: B batch, Q queries, C queries looked at, K classes, h4 w4 the mask logits' size,
Hc Wc canvas, R X rows and columns of a block of it.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.postprocess import geometry
from eomt_jax.postprocess.confidence import restored_confidence
from eomt_jax.types import Array


@flax.struct.dataclass
class PanopticPrediction:
    """Segments found in each image.

    Attributes:
      id_map: 0 where there is no segment, q + 1 where segment q lies. On the canvas;
        0 past each photograph's own size.
      labels: class of each segment, 0 to K - 1.
      scores: probability of that class.
      valid: True where query q is a segment with at least one pixel.
      confidence: of each pixel, 0 to 1, see confidence.pixel_confidence; 0 past each
        photograph's own size. None where nobody asked for it.
    """

    id_map: Int[Array, "*B Hc Wc"]
    labels: Int[Array, "*B Q"]
    scores: Float[Array, "*B Q"]
    valid: Bool[Array, "*B Q"]
    confidence: Float[Array, "*B Hc Wc"] | None = None


def panoptic_segmentation(
    mask_logits: Float[Array, "Q h4 w4"] | MaskFactors,
    class_logits: Float[Array, "Q K1"],
    restore: geometry.RestoreMatrices,
    *,
    is_thing: Bool[Array, " K"],
    score_threshold: float | Float[Array, ""] = 0.8,
    overlap_threshold: float = 0.8,
    confidence: str = "",
) -> PanopticPrediction:
    """Segments of one image, at the photograph's size.

    A query is kept if its best class is not "no object" and scores above
    score_threshold. Each pixel goes to the kept query with the largest score · σ(mask).
    A query's segment is what it won with σ ≥ 0.5; it is dropped when it won nothing,
    or when pixels won / pixels with σ ≥ 0.5 lies below overlap_threshold. Stuff
    segments of one class become one, under the first query's number.
    (Release: tue-mps/eomt@7bd19dd, to_per_pixel_preds_panoptic. transformers also
    drops a ratio that equals the threshold.)

    Few queries are kept as a rule, and only kept ones are restored: the work is
    compiled for 16, 32, 64 … Q of them and the smallest that holds all runs. The
    result is the same whichever runs. Under vmap all of them would run: use lax.map.

    If a kind of `confidence` is asked for (see confidence.KINDS), all queries are
    restored for it.
    """
    num_queries, num_labels = class_logits.shape
    probs = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)
    scores, labels = probs.max(-1), probs.argmax(-1)
    kept = (labels != num_labels - 1) & (scores > score_threshold)
    labels = jnp.minimum(labels, num_labels - 2)
    kept_first = jnp.argsort(~kept, stable=True)
    stuff = ~jnp.asarray(is_thing)[labels]

    def segment(capacity: int, _: Any) -> tuple[Array, Array]:
        chosen = kept_first[:capacity]
        winner, exists = _assign_pixels(
            mask_logits[chosen],
            jnp.where(kept, scores, -1.0)[chosen],
            restore,
            overlap_threshold=overlap_threshold,
        )
        same_stuff = (labels[chosen][:, None] == labels[chosen]) & stuff[chosen]
        first_same = jnp.argmax(same_stuff & exists, axis=1)
        position = jnp.arange(capacity)
        owner = jnp.where(stuff[chosen], first_same, position)
        ids = jnp.where(exists, chosen[owner] + 1, 0)
        id_map = jnp.append(ids, 0)[winner].astype(jnp.int32)
        valid = jnp.zeros(num_queries, bool)
        return id_map, valid.at[chosen].set(exists & (owner == position))

    capacities = _capacities(num_queries)
    branch = jnp.searchsorted(jnp.array(capacities), kept.sum())
    branches = [functools.partial(segment, capacity) for capacity in capacities]
    id_map, valid = jax.lax.switch(branch, branches, None)
    sure = None
    if confidence:
        sure = restored_confidence(mask_logits, class_logits, restore, confidence)
    return PanopticPrediction(
        id_map=id_map, labels=labels, scores=scores, valid=valid, confidence=sure
    )


def _capacities(num_queries: int) -> list[int]:
    """Returns 16, 32, 64 … and num_queries itself."""
    capacities = [16]
    while capacities[-1] < num_queries:
        capacities.append(2 * capacities[-1])
    return [*capacities[:-1], num_queries]


def _assign_pixels(
    mask_logits: Float[Array, "C h4 w4"],
    scores: Float[Array, " C"],
    restore: geometry.RestoreMatrices,
    *,
    overlap_threshold: float,
) -> tuple[Int[Array, "Hc Wc"], Bool[Array, " C"]]:
    """Returns which query gets each pixel, and which queries' segments are kept.

    Args:
      mask_logits: of the queries in question.
      scores: in (0, 1]; -1 for a query that takes no part.
      restore: see RestoreMatrices.
      overlap_threshold: see panoptic_segmentation.

    Returns:
      Winner of each pixel by position in C, or C where the winner has σ < 0.5 or the
      pixel lies past the photograph; and which queries' segments hold.
    """
    num_chosen, _, _ = mask_logits.shape
    canvas_height, canvas_width = len(restore.rows), len(restore.columns)
    queries = jnp.arange(num_chosen)

    def add_block(sums: tuple[Array, Array], block: geometry.Block) -> tuple:
        winners, areas = sums
        # An argmax as two plain reductions: XLA's own takes thrice as long on a CPU.
        # The barrier makes both see the same bits, whatever is fused with what.
        probs = jax.lax.optimization_barrier(jax.nn.sigmoid(block.logits))
        weighted = scores[:, None] * probs
        best = weighted.max(axis=1, keepdims=True)
        winner = jnp.where(weighted == best, queries[:, None], num_chosen).min(axis=1)
        strength = jnp.take_along_axis(probs, winner[:, None], axis=1)[:, 0]
        winner = jnp.where(block.inside, winner, num_chosen)
        own = jnp.where(strength >= 0.5, winner, num_chosen)
        solid = jnp.sum((probs >= 0.5) & block.inside[:, None], axis=(0, 2))
        areas += jnp.stack([count(winner), solid, count(own)])
        place = (block.top, block.left)
        return jax.lax.dynamic_update_slice(winners, own, place), areas

    def count(winner: Int[Array, "R X"]) -> Int[Array, " C"]:
        none = jnp.zeros(num_chosen, jnp.int32)
        return none.at[winner.reshape(-1)].add(1, mode="drop")

    _, padded = geometry.block_grid((canvas_height, canvas_width))
    initial = (
        jnp.full(padded, num_chosen, queries.dtype),
        jnp.zeros((3, num_chosen), jnp.int32),
    )
    winner, areas = geometry.fold_blocks(add_block, initial, mask_logits, restore)
    won, solid, own = areas
    # Areas stay below 2²⁴, where float32 division decides as exact fractions would.
    overlap = won / jnp.maximum(solid, 1)
    exists = (scores > 0) & (won > 0) & (own > 0) & (overlap >= overlap_threshold)
    return winner[:canvas_height, :canvas_width], exists
