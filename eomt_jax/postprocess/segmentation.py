"""Segments of one photograph in host memory, whatever they come from.

Pictures are made from this alone, so that predictions of all tasks, prepared records and
training targets need no drawing of their own.

Legend: H W the photograph's pixels, n segments, B batch, T targets (padded).
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8

from eomt_jax.pipeline.records import Record
from eomt_jax.types import DatasetInfo, Targets


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """Segments as one id map, or as masks that may overlap.

    Attributes:
      labels: class of each segment.
      id_map: 0 where there is no segment, i + 1 on segment i.
      masks: instead of an id map, where segments may overlap.
      scores: probability of each segment, 0 to 1; None where nobody guessed.
      is_crowd: True for a group of things of one class; None where there is none.
      queries: number of the query that predicted each segment; None if no single query
        predicts a segment.
      confidence: of each pixel, 0 to 1; None where nobody asked for it.
    """

    labels: Integer[np.ndarray, " n"]
    id_map: Integer[np.ndarray, "H W"] | None = None
    masks: Bool[np.ndarray, "n H W"] | None = None
    scores: Float[np.ndarray, " n"] | None = None
    is_crowd: Bool[np.ndarray, " n"] | None = None
    queries: Integer[np.ndarray, " n"] | None = None
    confidence: Float[np.ndarray, "H W"] | None = None

    def __post_init__(self):
        if (self.id_map is None) == (self.masks is None):
            raise ValueError("a segmentation has an id map or masks, one of the two")

    @classmethod
    def from_label_map(
        cls, label_map: Integer[np.ndarray, "H W"], *, confidence: Any = None
    ) -> "Segmentation":
        """Returns one segment for each class; negative pixels belong to none."""
        labels, inverse = np.unique(label_map, return_inverse=True)
        ids = np.cumsum(labels >= 0)
        return cls(
            labels=labels[labels >= 0],
            id_map=ids[inverse].reshape(label_map.shape),
            confidence=confidence,
        )

    @classmethod
    def from_record(cls, record: Record) -> "Segmentation":
        """Returns the segments of a prepared record, crowds included."""
        masks: dict[str, np.ndarray] = {}
        if record.segment_map is not None:
            masks["id_map"] = record.segment_map
        else:
            masks["masks"] = np.moveaxis(record.masks(), -1, 0)
        return cls(labels=record.labels, is_crowd=record.is_crowd, **masks)

    @classmethod
    def from_targets(
        cls, targets: Targets, row: int, size: tuple[int, int]
    ) -> "Segmentation":
        """Returns the segments of one image's targets, in either form.

        Args:
          targets: in host memory.
          row: of the batch.
          size: (H, W) of the image, which lies in the top left of the targets.

        Raises:
          ValueError: the targets were made without masks.
        """
        height, width = size
        kept = np.flatnonzero(targets.valid[row])
        masks: dict[str, np.ndarray] = {}
        if targets.id_map is not None:
            masks["id_map"] = renumber(np.asarray(targets.id_map[row]), kept, size)
        elif targets.mask_bits is not None:
            bits = np.asarray(targets.mask_bits[row])[:height, :width]
            unpacked = np.unpackbits(bits, axis=-1, bitorder="little")[..., kept]
            masks["masks"] = np.moveaxis(unpacked, -1, 0).astype(bool)
        else:
            raise ValueError(
                "these targets travel without masks; use Segmentation.from_record"
            )
        return cls(
            labels=np.asarray(targets.labels[row])[kept],
            is_crowd=np.asarray(targets.is_crowd[row])[kept],
            **masks,
        )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        masks = self.id_map if self.id_map is not None else self.masks
        assert masks is not None
        return masks.shape[-2], masks.shape[-1]

    def best_first(self) -> "Segmentation":
        """Returns overlapping masks by descending score, an id map as it is."""
        if self.masks is None or self.scores is None:
            return self
        order = np.argsort(-self.scores, kind="stable")
        return dataclasses.replace(
            self,
            labels=self.labels[order],
            masks=self.masks[order],
            scores=self.scores[order],
            is_crowd=None if self.is_crowd is None else self.is_crowd[order],
            queries=None if self.queries is None else self.queries[order],
        )

    def by_class(self) -> "Segmentation":
        """Segments of one class become one, as semantic segmentation sees them.

        Raises:
          ValueError: segments may overlap, so that a pixel has no one class.
        """
        if self.id_map is None:
            raise ValueError("overlapping masks have no one class a pixel")
        return self.from_label_map(np.append(-1, self.labels)[self.id_map])


def renumber(
    id_map: Integer[np.ndarray, "Hc Wc"],
    kept: Integer[np.ndarray, " n"],
    size: tuple[int, int],
) -> Integer[np.ndarray, "H W"]:
    """Returns the map's top left; kept segments alone have numbers, without gaps."""
    cut = id_map[: size[0], : size[1]]
    ids = np.zeros(max(int(cut.max(initial=0)), int(kept.max(initial=-1)) + 1) + 1, int)
    ids[kept + 1] = np.arange(1, len(kept) + 1)
    return ids[cut]


def cut_confidence(
    prediction: Any, row: int, size: tuple[int, int]
) -> Float[np.ndarray, "H W"] | None:
    """Returns the confidences of one image of a batch, None if it has none."""
    if prediction.confidence is None:
        return None
    return np.asarray(prediction.confidence[row])[: size[0], : size[1]]


def rgb_ids(id_map: Integer[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Returns ids as R + 256·G + 65536·B, as in COCO's panoptic PNG; 0 is black."""
    return np.stack([id_map >> shift & 255 for shift in (0, 8, 16)], -1).astype(
        np.uint8
    )


def class_ids(
    label_map: Integer[np.ndarray, "H W"], info: DatasetInfo
) -> Integer[np.ndarray, "H W"]:
    """Returns the data set's own number of each pixel's class, as a PNG holds it.

    Predictions of photographs and of prepared splits have these numbers.

    Args:
      label_map: positions in the class table.
      info: the class table; its ids have 8 bits where all fit, else 16.

    Raises:
      ValueError: an id doesn't fit.
    """
    for row in info.classes:
        if not 0 <= row.id < 65_536:
            raise ValueError(
                f"class {row.name[:80]!r} of {info.name} has the id {row.id}; a PNG "
                "holds 0 to 65535: give the class another id where it is listed"
            )
    ids = np.array([c.id for c in info.classes])
    return ids.astype(np.uint8 if ids.max() < 256 else np.uint16)[label_map]
