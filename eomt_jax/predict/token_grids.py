"""The part of the network's input that shows the photographs, and is computed.

A photograph that isn't square is fitted into the top left of the network's square input,
and a quarter of its tokens, say, are of padding. The network can do without them
(`cropped`, see Network). A program is compiled for each size of input, so the part is
one of few: each side has one of NUM_SIDES lengths.

Legend: B batch, S side of the network's input.
"""

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from eomt_jax.types import Batch

NUM_SIDES = 12
"""Photographs of 4:3 and 3:2 fill up parts whose short side is 9/12 and 8/12 of S."""


@dataclasses.dataclass(frozen=True)
class TokenGrids:
    """The sizes of input that a network computes.

    Attributes:
      image_size: S, of the network's square input.
      patch_size: in pixels.
    """

    image_size: int
    patch_size: int

    @classmethod
    def of(cls, model: Any) -> "TokenGrids":
        """Returns the grids of a network.

        Raises:
          ValueError: its input isn't square.
        """
        height, width = model.image_size
        if height != width:
            raise ValueError(
                f"the model's image size is {height} × {width}; photographs are fitted "
                "into a square: give image_size=S"
            )
        return cls(height, model.crop_step or height)

    @property
    def sides(self) -> list[int]:
        """Possible sides in pixels, shortest first: twelfths of S in whole patches."""
        num_patches = self.image_size // self.patch_size
        counts = {-(-num_patches * i // NUM_SIDES) for i in range(1, NUM_SIDES + 1)}
        return [self.patch_size * count for count in sorted(counts)]

    def smallest(self, *content_sizes: Sequence[int]) -> tuple[int, int]:
        """Returns (height, width) of the smallest input that holds these photographs.

        Args:
          *content_sizes: (height, width) of each, at most S.
        """
        height, width = (
            next(side for side in self.sides if side >= max(lengths, default=1))
            for lengths in (zip(*content_sizes) if content_sizes else ((), ()))
        )
        return height, width


def regroup(
    batches: Iterable[Batch], grids: TokenGrids, *, batch_size: int | None = None
) -> Generator[Batch, None, None]:
    """Yields the photographs of `batches` in batches that share their smallest input.

    Rows wait until they fill a batch. In the end there is one more batch for each size
    that is left, with rows that fill it up: valid=False and example_index -1. Closing
    the generator closes `batches` where it can be closed.

    Args:
      batches: in host memory.
      grids: of the network.
      batch_size: of the result; that of `batches` by default.
    """
    waiting: dict[tuple[int, int], list[Batch]] = {}
    try:
        for batch in batches:
            batch_size = batch_size or len(batch.valid)
            for row in np.flatnonzero(batch.valid).tolist():
                size = grids.smallest(batch.content_size[row].tolist())
                rows = waiting.setdefault(size, [])
                rows.append(
                    jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], batch)
                )
                if len(rows) == batch_size:
                    yield _join(waiting.pop(size), batch_size)
        for rows in waiting.values():
            yield _join(rows, batch_size or len(rows))
    finally:
        close = getattr(batches, "close", None)
        if close is not None:
            close()


def _join(rows: Sequence[Batch], batch_size: int) -> Batch:
    """Returns rows as one batch, filled up with copies of the last that don't count."""
    missing = batch_size - len(rows)
    copy = dataclasses.replace(
        rows[-1], valid=np.zeros(1, bool), example_index=np.full(1, -1, np.int32)
    )
    rows = [*rows, *[copy] * missing]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
