"""Confidence of each pixel: how sure the network is that some class covers it.

Legend: Q queries, K classes, h4 w4 the mask logits' size, Hc Wc canvas.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt16

from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.postprocess import geometry
from eomt_jax.types import Array

KINDS = ("unnormalized", "normalized")
"""Kinds of confidence, see `pixel_confidence`; "" stands for none."""

NUM_LEVELS = 1 << 16
"""Number of values that a picture of confidences tells apart."""


def check_kind(kind: str) -> None:
    """Raises ValueError unless it is one of KINDS or ""."""
    if kind and kind not in KINDS:
        raise ValueError(f"confidence is {kind!r}; it is {' or '.join(KINDS)}, or ''")


def pixel_confidence(
    scores: Float[Array, "*pixels K"], kind: str
) -> Float[Array, "*pixels"]:
    """Returns confidences from 0 to 1.

    Unnormalized, the confidence is the largest score of a class, at most 1: a pixel that
    no query claims has a low one, so it is an alarm for whatever no class covers.
    Normalized, it is that score's share of all classes' scores, for calibration: it can
    be high although all scores are low.

    Args:
      scores: Σ_q σ(mask_q) · probability_q(class), without "no object".
      kind: one of KINDS.
    """
    best = scores.max(axis=-1)
    if kind == "normalized":
        total = scores.sum(axis=-1)
        return jnp.where(total > 0, best / jnp.where(total > 0, total, 1), 0.0)
    return jnp.minimum(best, 1.0)


def restored_confidence(
    mask_logits: Float[Array, "Q h4 w4"] | MaskFactors,
    class_logits: Float[Array, "Q K1"],
    restore: geometry.RestoreMatrices,
    kind: str,
) -> Float[Array, "Hc Wc"]:
    """Returns the confidences of one fitted image, 0 past the photograph.

    All queries count, whichever become segments.

    Args:
      mask_logits: of one prediction.
      class_logits: of the same; the last class is "no object".
      restore: the way back to the photograph.
      kind: one of KINDS.
    """
    num_queries, num_labels = class_logits.shape
    probs = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)
    probs = probs[:, : num_labels - 1]
    height, width = len(restore.rows), len(restore.columns)

    def fill_block(confidence: Array, block: geometry.Block) -> Array:
        scores = jnp.einsum(
            "RqX,qk->RXk",
            jax.nn.sigmoid(block.logits),
            probs,
            precision=jax.lax.Precision.HIGHEST,
        )
        values = jnp.where(block.inside, pixel_confidence(scores, kind), 0.0)
        place = (block.top, block.left)
        return jax.lax.dynamic_update_slice(confidence, values, place)

    _, padded = geometry.block_grid((height, width))
    confidence = geometry.fold_blocks(
        fill_block,
        jnp.zeros(padded, jnp.float32),
        mask_logits[jnp.arange(num_queries)],
        restore,
    )
    return confidence[:height, :width]


def confidence_levels(confidence: Any) -> Any:
    """Returns which of NUM_LEVELS equal parts of 0 to 1 each confidence lies in.

    Args:
      confidence: NumPy or JAX array of floats; the result is one of int32.
    """
    levels = (confidence * NUM_LEVELS).astype(np.int32)
    return levels.clip(0, NUM_LEVELS - 1)


def confidence_picture(
    confidence: Float[np.ndarray, "H W"],
) -> UInt16[np.ndarray, "H W"]:
    """Returns a picture to save as PNG of 16 bits, as BRAVO's submissions have it.

    A value v stands for a confidence of (v + ½) / 65,536.
    """
    return confidence_levels(confidence).astype(np.uint16)
