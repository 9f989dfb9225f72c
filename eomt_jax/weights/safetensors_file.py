"""Files of named tensors: 8 bytes that say how long a header is, a JSON header, data.

The format of https://github.com/huggingface/safetensors. The package of that name copies
each tensor twice on the way to NumPy and all of them at once on the way to the disk;
here a tensor is read into its array, and written from it.
"""

import collections
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
METADATA = "__metadata__"
MAX_HEADER_BYTES = 100_000_000  # as the format's own reader has it


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `start` and `stop` count bytes from the file's beginning."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file at `path` says of itself."""

    path: str
    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: epath.PathLike) -> Header:
    """Reads a file's header, and checks that the tensors fill the file exactly.

    Raises:
      ValueError: saying what is wrong; the caller names the file.
    """
    with epath.Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        num_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or num_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"it has {size} bytes and its header should have {num_bytes}"
            )
        text = file.read(num_bytes)
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is no JSON: {error}") from error
    metadata: Any = value.pop(METADATA, {}) if isinstance(value, dict) else None
    if not _is_table_of_texts(metadata):
        raise ValueError("its header is no JSON object with texts as metadata")
    begin = 8 + num_bytes
    entries = {name: _entry(name, row, begin) for name, row in value.items()}
    position = begin
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        if entry.start != position:
            raise ValueError(
                f"{name} begins at byte {entry.start}, the tensor before it ends at "
                f"{position}"
            )
        position = entry.stop
    if position != size:
        raise ValueError(f"its tensors end at byte {position}, the file at {size}")
    return Header(str(path), entries, metadata)


def read_tensor(header: Header, name: str) -> np.ndarray:
    """One tensor as it is stored, from a local file, in memory of its own."""
    entry = header.entries[name]
    if entry.dtype not in DTYPES:
        raise ValueError(f"it is stored as {entry.dtype}, which NumPy doesn't know")
    count = math.prod(entry.shape)
    flat = np.fromfile(header.path, DTYPES[entry.dtype], count, offset=entry.start)
    return flat.reshape(entry.shape)


def write(
    path: epath.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes a file whole or not at all; it may be in a bucket."""
    path = epath.Path(path).expanduser()
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {METADATA: metadata}
    stop = 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + tensor.nbytes
        header[name] = {
            "dtype": codes[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (start, stop),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligned, for those who map the file
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f"{path.name}.unfinished"
    try:
        with unfinished.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                file.write(np.ascontiguousarray(tensor).view(np.uint8).data)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _entry(name: str, row: Any, begin: int) -> Entry:
    """A tensor's row of the header, checked by itself."""
    message = f"its header describes {name} as {str(row)[:200]}"
    try:
        dtype, shape, (start, stop) = row["dtype"], row["shape"], row["data_offsets"]
        numbers = (*shape, start, stop)
        good = all(type(number) is int and number >= 0 for number in numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(message) from error
    good = good and isinstance(dtype, str)
    if not good:
        raise ValueError(message)
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != stop - start:
        raise ValueError(
            f"{name}, {dtype} of shape {tuple(shape)}, does not fit its "
            f"{stop - start} bytes"
        )
    return Entry(dtype, tuple(shape), begin + start, begin + stop)


def _is_table_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = [name for name, count in counts.items() if count > 1]
        raise ValueError(f"{', '.join(twice[:20])} stands there twice")
    return value
