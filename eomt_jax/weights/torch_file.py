"""PyTorch's files: pickles, of which nothing but tensors in plain containers is read."""

import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model")  # Lightning's and others' key of the tensors


def read_state(path: epath.Path, local_path: str) -> dict[str, "torch.Tensor"]:
    """Tensors by name; mapped, so that those not asked for are never read.

    Args:
      path: for messages.
      local_path: the file, or a local copy of it.

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
        if is_zip:
            _check_checksums(local_path)
        # Only zip files can be mapped; old ones are read whole.
        state = torch.load(
            local_path, map_location="cpu", weights_only=True, mmap=is_zip
        )
    except Exception as error:
        raise ValueError(_explain(path, error)) from error
    if isinstance(state, dict):
        state = next(
            (state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), state
        )
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
            f"{path} holds values that are no tensors: {', '.join(others[:20])}."
        )
    return state


def to_numpy(tensor: "torch.Tensor") -> np.ndarray:
    """A copy in memory of its own; bfloat16, which torch doesn't hand over, as float32.

    Raises:
      ValueError: it repeats its values and may be far larger than its file.
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


def _check_checksums(local_path: str) -> None:
    """PyTorch writes a checksum for each tensor and doesn't look at it again."""
    with zipfile.ZipFile(local_path) as file:
        damaged = file.testzip()
    if damaged:
        raise ValueError(f"wrong checksum of {damaged}")


def _explain(path: epath.Path, error: Exception) -> str:
    code: Any = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if code:
        return (
            f"{path} holds a Python object besides tensors ({code[1]}), which is never "
            "unpickled here, as that may run any code. If you trust the file, save its "
            "tensors alone: state = torch.load(path, weights_only=False); "
            "torch.save(state['state_dict'], new_path)."
        )
    reason = str(error).strip().split("\n")[0]
    return (
        f"{path} cannot be read as PyTorch weights ({type(error).__name__}: {reason}). "
        "It is damaged, downloaded in part, or something else."
    )
