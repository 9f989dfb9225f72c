"""Reads PyTorch's files, which are pickles, without running any code in them."""

import mmap
import os
import re
import zipfile
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from eomt_jax import zip_archives
from eomt_jax.weights.wording import listed, typed_reason

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
# Keys under which Lightning and others store the tensors, by preference.
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state")
# Words in the keys of weights averaged over a training, which are better than the last.
_AVERAGES = ("ema", "teacher")
_MAX_DEPTH = 4
_MAX_PICKLE = 64 << 20  # bytes of the names and shapes
_MAX_MEMBERS = 50_000


def read_state(
    path: epath.Path, local_path: str
) -> tuple[dict[str, "torch.Tensor"], tuple[str, ...]]:
    """Returns tensors by name; the file is mapped, so unused tensors are never read.

    Args:
      path: for messages.
      local_path: the file, or a local copy of it.

    Returns:
      The tensors, and notes on which were taken if there are several sets.

    Raises:
      ImportError: there is no torch.
      ValueError: the file is damaged, or holds something else.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyTorch: pip install 'eomt_jax[torch]'. "
            "A .safetensors file does not."
        ) from error
    try:
        is_zip = zipfile.is_zipfile(local_path)
        _check_calls(local_path)
        if is_zip:
            _check_archive(local_path)
        # Only zip files can be mapped; files of the older format are read whole.
        state = torch.load(
            local_path, map_location="cpu", weights_only=True, mmap=is_zip
        )
    except Exception as error:
        raise ValueError(_explain(path, error)) from error
    notes: tuple[str, ...] = ()
    if isinstance(state, dict):
        found, keys = _find_tensors(state, path)
        if found is not None:
            state = found
            notes = tuple(f"Taken from the file: {key}." for key in keys)
        else:
            wrapped = (state[k] for k in WRAPPERS if isinstance(state.get(k), dict))
            state = next(wrapped, state)
    if not isinstance(state, dict) or not state:
        raise ValueError(
            f"{path} holds a {type(state).__name__}; wanted tensors by name."
        )
    others = [
        str(name)
        for name, value in state.items()
        if not isinstance(value, torch.Tensor) or not isinstance(name, str)
    ]
    if others:
        raise ValueError(
            f"{path} holds values that are no tensors: {listed(others[:20])}."
        )
    _check_stored(state, path, os.path.getsize(local_path))
    return state, notes


def _find_tensors(
    state: dict[Any, Any], path: epath.Path, depth: int = 0
) -> tuple[dict[str, "torch.Tensor"] | None, tuple[str, ...]]:
    """Returns the dictionary of tensors within others, and the keys that lead to it."""
    import torch

    if state and all(isinstance(value, torch.Tensor) for value in state.values()):
        return state, ()
    found = {}
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, dict) and depth < _MAX_DEPTH:
            tensors, choices = _find_tensors(value, path, depth + 1)
            if tensors:
                found[key] = tensors, choices
    if not found:
        return None, ()
    key = choose_copy(found, path)
    tensors, choices = found[key]
    others = listed(sorted(other for other in found if other != key)[:8])
    chosen = (f"{key}, and not {others}",) if len(found) > 1 else ()
    return tensors, (*chosen, *choices)


def choose_copy(keys: Collection[str], path: epath.PathLike) -> str:
    """Returns the key of the weights to take: averaged ones, or the usual ones.

    Args:
      keys: keys of weights, at least one.
      path: path of the file, for the message.

    Raises:
      ValueError: there are several of unknown names.
    """
    averages = [k for k in keys if set(re.split(r"[^a-z]+", k.lower())) & {*_AVERAGES}]
    usual = [key for key in WRAPPERS if key in keys]
    best = averages or usual[:1] or list(keys)
    if len(best) > 1:
        names = listed(sorted(best)[:8])
        raise ValueError(
            f"{path} holds several sets of weights ({names}). Save the one that is meant "
            "in a file of its own."
        )
    return best[0]


def to_numpy(tensor: "torch.Tensor") -> np.ndarray:
    """Returns a NumPy copy; bfloat16, which torch can't convert, becomes float32.

    Raises:
      ValueError: the tensor repeats stored values, and may be far larger than its file.
    """
    import torch

    tensor = tensor.detach()
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(
            f"its shape {tuple(tensor.shape)} needs more values than are stored"
        )
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy()
    return np.array(tensor.numpy())


def _check_stored(
    state: dict[str, "torch.Tensor"], path: epath.Path, num_bytes: int
) -> None:
    """Raises ValueError unless the numbers of all tensors are stored in the file.

    A pickle may also call for tensors of any size, whose memory then holds anything.
    """
    import torch

    storages: dict[int, int] = {}
    for name, tensor in state.items():
        if tensor.is_nested:
            raise ValueError(f"{path}: {name[:200]} is nested, and has no one shape.")
        if tensor.is_meta or tensor.layout != torch.strided:
            continue  # It is refused when it is read.
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    claimed = sum(storages.values())
    if claimed > num_bytes:
        raise ValueError(
            f"{path} has {num_bytes:,} bytes, and its tensors {claimed:,}: it is damaged."
        )


def _check_calls(local_path: str) -> None:
    """Raises ValueError where a pickle makes an array of bytes of any size.

    PyTorch allows it among its safe calls, and never writes it for tensors.
    """
    with (
        open(local_path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for module in (b"builtins", b"__builtin__"):
            if data.find(b"c%s\nbytearray\n" % module) >= 0:
                raise ValueError("it makes an array of bytes, which is no tensor")


def _check_archive(local_path: str) -> None:
    """Raises an error if a file isn't as PyTorch wrote it.

    PyTorch stores its members uncompressed, with checksums that it doesn't verify.
    """
    with open(local_path, "rb") as stream, zip_archives.open_zip(stream) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(
                    f"{member.filename[:200]} is compressed, and PyTorch would misread "
                    "it; zip the files again without compression"
                )
            if member.filename.endswith(".pkl") and member.file_size > _MAX_PICKLE:
                raise ValueError(
                    f"{member.filename[:200]} has {member.file_size:,} bytes, more than "
                    f"{_MAX_PICKLE:,}"
                )
        if len(archive.infolist()) > _MAX_MEMBERS:
            raise ValueError(f"it holds more than {_MAX_MEMBERS:,} tensors")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"wrong checksum of {damaged}")


def _explain(path: epath.Path, error: Exception) -> str:
    code: Any = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if code:
        return (
            f"{path} holds a Python object besides tensors ({code[1]}), which is never "
            "unpickled here, as that may run any code. If you trust the file, save its "
            "tensors alone: state = torch.load(path, weights_only=False); then, of a "
            "whole network, torch.save(state.state_dict(), new_path), and of a "
            "dictionary torch.save(state['state_dict'], new_path) with the key that "
            "holds the tensors, one of state.keys()."
        )
    return (
        f"{path} cannot be read as PyTorch weights ({typed_reason(error)}). "
        "It is damaged, downloaded in part, or something else."
    )
