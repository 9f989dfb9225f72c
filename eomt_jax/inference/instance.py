"""Instance post-processing: from one prediction's logits to scored, packed masks.

Legend: B batch, Q queries, N instances, K classes, h4 w4 the mask logits' size, Hc Wc
canvas, W8 bytes for Wc bits, R rows of a strip.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, UInt8

from eomt_jax.inference import geometry
from eomt_jax.types import Array

_STRIP_PIXELS = 2**15
"""Canvas pixels restored at a time: small enough for a CPU's cache."""


@flax.struct.dataclass
class InstancePrediction:
    """The most probable (query, class) pairs of each image; masks may overlap.

    Attributes:
      mask_bits: on the canvas, one bit a pixel: bit x % 8 of byte x // 8 of a row. 0
        past each photograph's own size.
      labels: class of each instance, 0 to K - 1.
      scores: probability of the class times the mask's own; 0 where the mask is empty.
    """

    mask_bits: UInt8[Array, "*B N Hc W8"]
    labels: Int[Array, "*B N"]
    scores: Float[Array, "*B N"]


def instance_segmentation(
    mask_logits: Float[Array, "Q h4 w4"],
    class_logits: Float[Array, "Q K1"],
    restore: geometry.RestoreMatrices,
    *,
    num_instances: int = 100,
) -> InstancePrediction:
    """Instances of one image, at the photograph's size, most probable class first.

    One query may give several instances, of different classes. A mask is where the
    logit exceeds 0; the score is the class probability times the mean σ inside.
    (Release: tue-mps/eomt@7bd19dd, mask_classification_instance.eval_step, which adds
    1e-6 to the area it divides by.)

    Args:
      mask_logits: of all queries.
      class_logits: the last class is "no object".
      restore: see RestoreMatrices.
      num_instances: N, all Q · K pairs where there are fewer.
    """
    probs = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)[:, :-1]
    num_classes = probs.shape[1]
    probs, pairs = jax.lax.top_k(probs.reshape(-1), min(num_instances, probs.size))
    bits, mask_scores = _restore_bits(mask_logits[pairs // num_classes], restore)
    return InstancePrediction(
        mask_bits=bits, labels=pairs % num_classes, scores=probs * mask_scores
    )


def _restore_bits(
    mask_logits: Float[Array, "N h4 w4"], restore: geometry.RestoreMatrices
) -> tuple[UInt8[Array, "N Hc W8"], Float[Array, " N"]]:
    """Masks at the photograph's size, packed, and the mean σ inside each.

    Strip by strip: the logits at the size of the canvas exist nowhere.
    """
    num_instances, _, _ = mask_logits.shape
    canvas_height, canvas_width = len(restore.rows), len(restore.columns)
    strip_height = min(canvas_height, max(1, _STRIP_PIXELS // canvas_width))
    num_strips = -(-canvas_height // strip_height)
    padding = num_strips * strip_height - canvas_height
    rows = jnp.pad(restore.rows, ((0, padding), (0, 0)))
    height, width = restore.original_size
    highest = jax.lax.Precision.HIGHEST
    wide = jnp.einsum("nhw,Xw->nhX", mask_logits, restore.columns, precision=highest)

    def strip_step(i: Array, sums: tuple[Array, Array, Array]) -> tuple:
        bits, area, inside = sums
        top = i * strip_height
        strip = jax.lax.dynamic_slice_in_dim(rows, top, strip_height)
        logits = jnp.einsum("Yh,nhX->nYX", strip, wide, precision=highest)
        y = top + jnp.arange(strip_height)
        masks = (
            (logits > 0) & (y[:, None] < height) & (jnp.arange(canvas_width) < width)
        )
        packed = jnp.packbits(masks, axis=-1, bitorder="little")
        area += masks.sum((1, 2))
        inside += jnp.where(masks, jax.nn.sigmoid(logits), 0.0).sum((1, 2))
        return jax.lax.dynamic_update_slice(bits, packed, (0, top, 0)), area, inside

    shape = (num_instances, num_strips * strip_height, -(-canvas_width // 8))
    bits, area, inside = jax.lax.fori_loop(
        0,
        -(-height // strip_height),
        strip_step,
        (
            jnp.zeros(shape, jnp.uint8),
            jnp.zeros(num_instances, jnp.int32),
            jnp.zeros(num_instances, jnp.float32),
        ),
    )
    return bits[:, :canvas_height], inside / jnp.maximum(area, 1)
