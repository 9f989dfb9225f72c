"""Instance post-processing: from one prediction's logits to scored, packed masks.

Legend: B batch, Q queries, N instances, K classes, h4 w4 the mask logits' size, Hc Wc
canvas, W8 bytes for Wc bits.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.postprocess import geometry
from eomt_jax.types import Array


@flax.struct.dataclass
class InstancePrediction:
    """The most probable (query, class) pairs of each image; masks may overlap.

    Attributes:
      mask_bits: on the canvas, one bit a pixel: bit x % 8 of byte x // 8 of a row. 0
        past each photograph's own size.
      labels: class of each instance, 0 to K - 1.
      scores: probability of the class times the mask's own; 0 where the mask is empty
        or the instance is a duplicate.
      queries: number of the query that each instance is from; None if unknown.
    """

    mask_bits: UInt8[Array, "*B N Hc W8"]
    labels: Int[Array, "*B N"]
    scores: Float[Array, "*B N"]
    queries: Int[Array, "*B N"] | None = None


def instance_segmentation(
    mask_logits: Float[Array, "Q h4 w4"] | MaskFactors,
    class_logits: Float[Array, "Q K1"],
    restore: geometry.RestoreMatrices,
    *,
    is_thing: Bool[Array, " K"] | None = None,
    num_instances: int = 100,
    nms_iou: float | Float[Array, ""] | None = None,
) -> InstancePrediction:
    """Returns instances at the photograph's size, most probable class first.

    One query may give several instances, of different classes. A mask is where the
    logit exceeds 0; the score is the class probability times the mean σ inside.
    (Release: tue-mps/eomt@7bd19dd, mask_classification_instance.eval_step, which adds
    1e-6 to the area it divides by.)

    Args:
      mask_logits: of all queries.
      class_logits: the last class is "no object".
      restore: see RestoreMatrices.
      is_thing: classes that have instances; all of them by default. Of a panoptic
        model's, stuff would otherwise take the places of things.
      num_instances: N, all Q · K pairs where there are fewer.
      nms_iou: an instance whose mask has a larger IoU than this with one of its class
        that scores more is a duplicate; None keeps duplicates, as the release does. The
        IoU is that of the masks at the logits' resolution.
    """
    probs = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)[:, :-1]
    num_classes = probs.shape[1]
    if is_thing is not None:
        probs = jnp.where(is_thing, probs, 0.0)
    probs, pairs = jax.lax.top_k(probs.reshape(-1), min(num_instances, probs.size))
    queries, labels = pairs // num_classes, pairs % num_classes
    masks = mask_logits[queries]
    bits, mask_scores = _restore_bits(masks, restore)
    scores = probs * mask_scores
    if nms_iou is not None:
        duplicate = _is_duplicate(_iou(masks, restore) > nms_iou, labels, scores)
        scores = jnp.where(duplicate, 0.0, scores)
    return InstancePrediction(
        mask_bits=bits, labels=labels, scores=scores, queries=queries
    )


def _is_duplicate(
    overlaps: Bool[Array, "N N"], labels: Int[Array, " N"], scores: Float[Array, " N"]
) -> Bool[Array, " N"]:
    """Returns which instances overlap a better one of their class that is kept."""
    order = jnp.argsort(-scores)
    same = overlaps & (labels[:, None] == labels)
    hides = jnp.triu(same[order][:, order], k=1)

    def decide(kept: Bool[Array, " N"], i: Array) -> tuple[Bool[Array, " N"], None]:
        is_hidden = (kept & hides[:, i]).any()
        return kept & ~(is_hidden & (jnp.arange(len(kept)) == i)), None

    places = jnp.arange(len(scores))
    kept, _ = jax.lax.scan(decide, jnp.ones(len(scores), bool), places)
    return ~kept[jnp.argsort(order)]


def _iou(
    mask_logits: Float[Array, "N h4 w4"], restore: geometry.RestoreMatrices
) -> Float[Array, "N N"]:
    """Returns all pairs' IoU; a logit counts by its share of the photograph.

    At the photograph's size the products would take longer than the network.
    """
    height, width = restore.original_size
    inside_rows = jnp.arange(len(restore.rows)) < height
    inside_columns = jnp.arange(len(restore.columns)) < width
    weights = jnp.outer(inside_rows @ restore.rows, inside_columns @ restore.columns)
    masks = (mask_logits > 0).astype(jnp.float32).reshape(len(mask_logits), -1)
    intersections = jnp.matmul(
        masks * weights.reshape(-1), masks.T, precision=jax.lax.Precision.HIGHEST
    )
    areas = jnp.diag(intersections)
    unions = areas[:, None] + areas - intersections
    return jnp.where(unions > 0, intersections / jnp.maximum(unions, 1e-9), 0.0)


def _restore_bits(
    mask_logits: Float[Array, "N h4 w4"], restore: geometry.RestoreMatrices
) -> tuple[UInt8[Array, "N Hc W8"], Float[Array, " N"]]:
    """Returns masks at the photograph's size, packed, and the mean σ inside each."""
    num_instances, _, _ = mask_logits.shape
    canvas_height, canvas_width = len(restore.rows), len(restore.columns)

    def add_block(sums: tuple[Array, Array, Array], block: geometry.Block) -> tuple:
        bits, area, total = sums
        masks = (block.logits > 0) & block.inside[:, None]
        area += masks.sum((0, 2))
        total += jnp.where(masks, jax.nn.sigmoid(block.logits), 0.0).sum((0, 2))
        packed = jnp.packbits(masks.swapaxes(0, 1), axis=-1, bitorder="little")
        place = (0, block.top, block.left // 8)
        return jax.lax.dynamic_update_slice(bits, packed, place), area, total

    _, (height, width) = geometry.block_grid((canvas_height, canvas_width))
    initial = (
        jnp.zeros((num_instances, height, width // 8), jnp.uint8),
        jnp.zeros(num_instances, jnp.int32),
        jnp.zeros(num_instances, jnp.float32),
    )
    bits, area, total = geometry.fold_blocks(add_block, initial, mask_logits, restore)
    bits = bits[:, :canvas_height, : -(-canvas_width // 8)]
    return bits, total / jnp.maximum(area, 1)
