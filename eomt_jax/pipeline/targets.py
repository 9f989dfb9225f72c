"""Makes the compact, padded targets of one sample from a record's segments.

Segments that don't overlap stay one id map from the file to the device. Segments that
may overlap take one bit a pixel each and are packed while they are decoded, so that
the masks of a large photograph never all exist unpacked.

Legend: H W pixels, T segments, T8 bytes for T bits.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8
from pycocotools import mask as mask_codec

from eomt_jax.pipeline.records import Record
from eomt_jax.pipeline.transforms import Geometry, crop_map

SampleTargets = Mapping[str, np.ndarray]


class SegmentMasks(abc.ABC):
    """Masks of one image's segments, as an id map or as bits."""

    @abc.abstractmethod
    def crop(self, geometry: Geometry) -> "SegmentMasks":
        """Returns the part of the masks in the training crop, without its padding."""

    @abc.abstractmethod
    def visible(self) -> Bool[np.ndarray, " T"]:
        """Returns which segments have at least one pixel."""

    @abc.abstractmethod
    def compact(
        self,
        keep: Bool[np.ndarray, " T"],
        size: tuple[int, int],
        max_targets: int,
        *,
        mark_void: bool = False,
    ) -> SampleTargets:
        """Returns the masks' field of `Targets`: kept segments, numbered without gaps.

        Args:
          keep: which segments; pixels of the others belong to no segment.
          size: (height, width) of the padded result, with the masks in its top left.
          max_targets: the most that are ever kept.
          mark_void: void pixels of the photograph belong to an extra target, number
            max_targets. With an id map, void is every pixel without a kept segment;
            with bits, where the rest may be background, pixels of dropped segments.
        """


@dataclasses.dataclass(frozen=True)
class IdMap(SegmentMasks):
    """Masks of segments that don't overlap.

    Attributes:
      ids: 0 where there is no segment, t + 1 on segment t.
      num_segments: T.
    """

    ids: Integer[np.ndarray, "H W"]
    num_segments: int

    def crop(self, geometry: Geometry) -> "IdMap":
        return IdMap(crop_map(self.ids, geometry), self.num_segments)

    def visible(self) -> Bool[np.ndarray, " T"]:
        # Reading the ids where they change is faster than reading all pixels.
        ids = self.ids.ravel()
        seen = np.zeros(self.num_segments + 1, bool)
        seen[ids[:1]] = True
        seen[ids[1:][ids[1:] != ids[:-1]]] = True
        return seen[1:]

    def compact(
        self,
        keep: Bool[np.ndarray, " T"],
        size: tuple[int, int],
        max_targets: int,
        *,
        mark_void: bool = False,
    ) -> SampleTargets:
        dtype = id_map_dtype(max_targets + mark_void)
        nobody = max_targets + 1 if mark_void else 0
        renumbered = np.full(keep.size + 1, nobody, dtype)
        renumbered[1:][keep] = np.arange(1, keep.sum() + 1)
        height, width = self.ids.shape
        padded = np.zeros(size, dtype)
        np.take(renumbered, self.ids, out=padded[:height, :width])
        return {"id_map": padded}


@dataclasses.dataclass(frozen=True)
class MaskBits(SegmentMasks):
    """Masks of segments that may overlap.

    Attributes:
      bits: bit t % 8 of byte t // 8 is segment t.
      num_segments: T.
    """

    bits: UInt8[np.ndarray, "H W T8"]
    num_segments: int

    @classmethod
    def pack(cls, masks: Bool[np.ndarray, "H W T"]) -> "MaskBits":
        return cls(np.packbits(masks, axis=-1, bitorder="little"), masks.shape[-1])

    @classmethod
    def decode(cls, rles: Sequence[bytes], size: tuple[int, int]) -> "MaskBits":
        """Decodes COCO's compressed run lengths of masks of `size` (H, W)."""
        bits = np.zeros((*size, num_mask_bytes(len(rles))), np.uint8)
        for t, rle in enumerate(rles):
            mask = mask_codec.decode({"size": list(size), "counts": rle})
            bits[..., t // 8] |= mask << (t % 8)
        return cls(bits, len(rles))

    def crop(self, geometry: Geometry) -> "MaskBits":
        return MaskBits(crop_map(self.bits, geometry), self.num_segments)

    def visible(self) -> Bool[np.ndarray, " T"]:
        return self._unpack(np.bitwise_or.reduce(self.bits, axis=(0, 1)))

    def compact(
        self,
        keep: Bool[np.ndarray, " T"],
        size: tuple[int, int],
        max_targets: int,
        *,
        mark_void: bool = False,
    ) -> SampleTargets:
        bits, is_void = self.bits, None
        if not keep.all():
            masks = self._unpack(bits)
            is_void = masks[..., ~keep].any(-1) & ~masks[..., keep].any(-1)
            bits = self.pack(masks[..., keep]).bits
        height, width, num_bytes = bits.shape
        num_padded = num_mask_bytes(max_targets + mark_void)
        padded = np.zeros((*size, num_padded), np.uint8)
        padded[:height, :width, :num_bytes] = bits
        if mark_void and is_void is not None:
            byte, bit = divmod(max_targets, 8)
            padded[:height, :width, byte] |= is_void.astype(np.uint8) << bit
        return {"mask_bits": padded}

    def _unpack(self, bits: np.ndarray) -> np.ndarray:
        return np.unpackbits(
            bits, axis=-1, count=self.num_segments, bitorder="little"
        ).astype(bool)


def segment_masks(record: Record) -> SegmentMasks:
    """Returns a record's segments in the form in which it holds them."""
    if record.segment_map is not None:
        return IdMap(record.segment_map, len(record.labels))
    return MaskBits.decode(record.rles or (), record.size)


def id_map_dtype(max_targets: int) -> type[np.unsignedinteger]:
    """Returns the smallest type that holds 0 … max_targets."""
    return np.uint8 if max_targets <= np.iinfo(np.uint8).max else np.uint16


def num_mask_bytes(max_targets: int) -> int:
    """Returns T8, the number of bytes that hold one bit for each target."""
    return -(-max_targets // 8)


def compact_targets(
    masks: SegmentMasks | None,
    keep: Bool[np.ndarray, " T"],
    *,
    labels: Int[np.ndarray, " T"],
    is_crowd: Bool[np.ndarray, " T"],
    size: tuple[int, int],
    max_targets: int,
    mark_void: bool = False,
) -> SampleTargets:
    """Keeps some segments, renumbers them without gaps and pads.

    Args:
      masks: the segments' masks; None leaves masks out of the targets.
      keep: segments that become targets, in their order.
      labels: class index of each segment.
      is_crowd: whether each segment is a crowd.
      size: (height, width) of the padded masks, which lie in its top left.
      max_targets: rows of the padded vectors.
      mark_void: see SegmentMasks.compact.

    Returns:
      The fields of `Targets` for one image.
    """
    num_targets = int(keep.sum())
    check_num_targets(num_targets, max_targets)

    def pad(values: np.ndarray, dtype: type) -> np.ndarray:
        padded = np.zeros(max_targets, dtype)
        padded[:num_targets] = values
        return padded

    compact = {}
    if masks is not None:
        compact = masks.compact(keep, size, max_targets, mark_void=mark_void)
    return {
        "labels": pad(labels[keep], np.int32),
        "valid": pad(np.ones(num_targets, bool), np.bool_),
        "is_crowd": pad(is_crowd[keep], np.bool_),
        **compact,
    }


def check_num_targets(num_targets: int, max_targets: int) -> None:
    """Raises an error for too many targets; none is left out to make them fit.

    Raises:
      ValueError: there are more than fit; the message names the field to change.
    """
    if num_targets > max_targets:
        raise ValueError(
            f"there are {num_targets} targets, but room for {max_targets}: set "
            f"config.dataset.max_targets to {num_targets} or more, or to 0 for the "
            "most that any image of the prepared dataset has"
        )
