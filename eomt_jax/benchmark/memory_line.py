"""Estimates a program's memory at any batch size from a few compiled ones."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class MemoryLine:
    """Bytes that a program takes: a fixed part, and a part for each image.

    Attributes:
      fixed: bytes of parameters, optimizer state, gradients and the like.
      per_image: bytes for each image, mostly activations.
    """

    fixed: float
    per_image: float

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> "MemoryLine":
        """Returns the line through the smallest and the largest of (batch, bytes).

        Raises:
          ValueError: there are fewer than two batch sizes.
        """
        (small, at_small), *_, (large, at_large) = sorted(set(points)) * 2
        if small == large:
            raise ValueError(f"a line needs two batch sizes, not {small} alone")
        per_image = (at_large - at_small) / (large - small)
        return cls(at_small - per_image * small, per_image)

    def at(self, batch: int) -> float:
        """Returns the bytes of a program with this batch size."""
        return self.fixed + self.per_image * batch

    def largest_batch(self, available: float) -> int:
        """Returns how many images fit into `available` bytes; 0 if none does."""
        return max(0, math.floor((available - self.fixed) / self.per_image))


def passes_for(
    batch: int,
    line: MemoryLine,
    available: float,
    *,
    gradients: float,
    per_input: float,
) -> int | None:
    """Returns in how many equal passes a batch fits; None if no image does.

    Args:
      batch: images of an optimizer step.
      line: memory of a step in one pass.
      available: bytes that there are.
      gradients: bytes of the gradients; with several passes their sum is kept beside
        those of the current pass.
      per_input: bytes of an image and its targets, all of which wait on the device.
    """
    if line.largest_batch(available) >= batch:
        return 1
    for passes in range(2, batch + 1):
        images = batch // passes
        if batch % passes:
            continue
        waiting = (batch - images) * per_input
        if line.at(images) + gradients + waiting <= available:
            return passes
    return None
