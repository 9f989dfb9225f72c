"""Metrics of a score that is counted in levels, from whole numbers on the host.

Legend: L levels, from the lowest score to the highest.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

_NUM_BINS = 15
_RECALL = 0.95


class Reliability(NamedTuple):
    """Counts of pixels in 15 bins of equal width of their confidence.

    Attributes:
      pixels: number in each bin.
      right: those whose class is right.
      confidence: sum of their confidences.
    """

    pixels: Int[np.ndarray, " bins"]
    right: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]

    @classmethod
    def of_levels(
        cls, right: Int[np.ndarray, " L"], wrong: Int[np.ndarray, " L"]
    ) -> "Reliability":
        """Returns the bins of pixels that are counted by level of confidence."""
        # No middle of a level lies on the border of two bins.
        confidence = (np.arange(len(right)) + 0.5) / len(right)
        bins = (confidence * _NUM_BINS).astype(np.int64)
        pixels, hits = np.zeros((2, _NUM_BINS), np.int64)
        np.add.at(pixels, bins, right + wrong)
        np.add.at(hits, bins, right)
        sums = np.bincount(bins, (right + wrong) * confidence, minlength=_NUM_BINS)
        return cls(pixels, hits, sums)

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error: Σ |right - confidence| by all pixels."""
        if not self.pixels.any():
            return None
        return float(np.abs(self.right - self.confidence).sum() / self.pixels.sum())


def curves(
    positive: Int[np.ndarray, " L"],
    negative: Int[np.ndarray, " L"],
    ending: str,
    *,
    aupr: str,
) -> dict[str, float | None]:
    """Returns AUROC, FPR at a recall of 95 % and average precision of a score.

    A metric without a value is None: a curve needs counts of both kinds.

    Args:
      positive: what a high score is to find, by level.
      negative: the rest, by level.
      ending: of the names of the first two.
      aupr: name of the third.
    """
    auroc, fpr95 = None, None
    if positive.any() and negative.any():
        rates = _rates(positive), _rates(negative)
        auroc = float(np.trapezoid(*rates))
        fpr95 = float(rates[1][np.argmax(rates[0] >= _RECALL)])
    return {
        f"auroc{ending}": auroc,
        f"fpr95{ending}": fpr95,
        aupr: average_precision(positive, negative),
    }


def _rates(counts: Int[np.ndarray, " L"]) -> Float[np.ndarray, " L1"]:
    """Returns which share passes each level, from none to all."""
    passed = np.append(0, counts[::-1].cumsum())
    return passed / passed[-1]


def average_precision(
    positive: Int[np.ndarray, " L"], negative: Int[np.ndarray, " L"]
) -> float | None:
    """Returns Σ (growth of recall) · precision; None without anything to be found."""
    if not positive.any():
        return None
    found = positive[::-1]
    passed = (positive + negative)[::-1].cumsum()
    precision = found.cumsum() / np.maximum(passed, 1)
    return float((found * precision).sum() / positive.sum())


def harmonic_mean(values: Iterable[float]) -> float | None:
    """Returns the harmonic mean of numbers from 0 on; None without any."""
    values = list(values)
    if not values:
        return None
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / v for v in values)
