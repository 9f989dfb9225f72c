"""Checks records before they are written, and what was written against them.

A record is checked in memory, where an error stops the build at its image. The finished
files are then read once and compared with checksums of what was checked, so that no
photograph or id map is decoded a second time.
"""

import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from eomt_jax.datasets import run_lengths
from eomt_jax.pipeline import records

Checksums = Mapping[str, Mapping[str, int]]
"""Checksums of the examples by split and image id, in the order of the records."""


def check_record(record: records.Record, *, num_classes: int) -> None:
    """Raises ValueError unless a record is what training and evaluation rely on.

    Segments have the record's size, and there is a class and a flag for each. An id map
    has no others. Each mask that may overlap others is of the photograph's pixels, and
    has an area.

    Args:
      record: the builder has decoded its photograph, and found it of the record's size.
      num_classes: labels are 0 to one less.
    """
    wrong = _find_wrong(record, num_classes)
    if wrong:
        raise ValueError(f"the record of {record.image_id} is inconsistent: {wrong}")


def _find_wrong(record: records.Record, num_classes: int) -> str:
    size = record.height, record.width
    num_segments = len(record.labels)
    if record.is_crowd.shape != (num_segments,):
        return f"{num_segments} labels, {len(record.is_crowd)} of is_crowd"
    wrong = (record.labels < 0) | (record.labels >= num_classes)
    if wrong.any():
        return f"label {record.labels[wrong][0]} of {num_classes} classes"
    if record.segment_map is not None:
        if record.size != size:
            found = f"{record.size[0]} x {record.size[1]}"
            return f"its id map has {found} pixels, not {size[0]} x {size[1]}"
        largest = int(record.segment_map.max(initial=0))
        if largest > num_segments:
            return f"its id map has a segment {largest} of {num_segments}"
        return ""
    rles, areas = record.rles or (), record.areas
    if areas is None or not len(rles) == len(areas) == num_segments:
        found = 0 if areas is None else len(areas)
        return f"{num_segments} labels, {len(rles)} masks, {found} areas"
    broken = run_lengths.find_broken(rles, size)
    if broken is not None:
        return f"the run lengths of mask {broken} aren't those of {size[0]} x {size[1]}"
    wrong = ~((areas >= 0) & (areas < np.inf))
    if wrong.any():
        return f"an area is {areas[wrong][0]}"
    return ""


def checksum(example: Mapping[str, Any]) -> int:
    """Returns a number by which a record's example is known again after reading."""
    number = 0
    for name in sorted(example):
        number = zlib.crc32(name.encode(), number)
        value = example[name]
        for part in value if isinstance(value, list) else [value]:
            data = _bytes(part)
            number = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), number))
    return number


def _bytes(value: Any) -> bytes | memoryview:
    if isinstance(value, io.BytesIO):
        return value.getbuffer()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return value if isinstance(value, bytes) else str(value).encode()


def check_read_back(built: epath.Path, checksums: Checksums) -> None:
    """Reads all records of a build.

    Raises:
      ValueError: one can't be read, or isn't what was written. It names the image.
    """
    name = records.read_prepared_info(built).name
    for split, written in checksums.items():
        source = records.RecordSource(built, split)
        if len(source) != len(written):
            raise ValueError(
                f"{name}: {len(source):,} of the {len(written):,} records written for "
                f"{split} can be read back; is the disk sound? Prepare it again"
            )
        for index, (image_id, number) in enumerate(written.items()):
            try:
                found, reason = checksum(source.example(index)), "it differs"
            except ValueError:
                found, reason = None, "its file is damaged"
            if found != number:
                raise ValueError(
                    f"{name}: image {image_id} of {split} can't be read back as it was "
                    f"written ({reason}); is the disk sound? Prepare it again"
                )
