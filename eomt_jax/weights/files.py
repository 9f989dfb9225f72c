"""Tensors by name from other libraries' files, read one at a time.

Nothing is unpickled freely: safetensors, or torch.load with weights_only. Whatever is
wrong with a file ends in a ValueError that names the file and the tensor.
"""

import contextlib
import dataclasses
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float32

from eomt_jax.weights import safetensors_file

FLOATS = ("float64", "float32", "float16", "bfloat16")
TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder, by preference

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
      path: what was opened, for messages.
      shapes: every tensor's shape.
      config: the config.json of a Hugging Face folder; empty for a single file.
      load: reads one tensor as it is stored.
      metadata: the texts in the header of a single safetensors file; else empty.
    """

    path: str
    shapes: dict[str, Shape]
    config: dict[str, Any]
    load: Callable[[str], np.ndarray]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)

    def read(self, name: str) -> Float32[np.ndarray, "..."]:
        """One tensor in float32; ValueError for integers, NaN and infinities."""
        try:
            array = self.load(name)
        except Exception as error:
            raise ValueError(f"{self.path}: cannot read {name}: {error}") from error
        if array.dtype.name not in FLOATS:
            raise ValueError(
                f"{self.path}: {name} is stored as {array.dtype.name}; wanted one of "
                f"{', '.join(FLOATS)}. Quantised checkpoints are not supported."
            )
        with np.errstate(over="ignore"):  # an overflow is reported just below
            array = array.astype(np.float32, copy=False)
        num_bad = array.size - np.count_nonzero(np.isfinite(array))
        if num_bad:
            raise ValueError(
                f"{self.path}: {name} holds {num_bad} values that are NaN or infinite; "
                "the file is damaged or comes from a diverged training."
            )
        return array


@contextlib.contextmanager
def open_checkpoint(path: epath.PathLike) -> Iterator[Checkpoint]:
    """Opens a .safetensors or PyTorch file, or a Hugging Face folder, sharded or not.

    Files in a bucket are copied to a temporary folder for as long as this is open.
    """
    path = epath.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            yield _open_folder(path, stack)
        else:
            yield dataclasses.replace(_open_file(path, stack), path=str(path))


def _open_folder(folder: epath.Path, stack: contextlib.ExitStack) -> Checkpoint:
    config_file = folder / "config.json"
    config = _read_json(config_file) if config_file.exists() else {}
    for name in WEIGHTS:
        if (folder / name).exists():
            checkpoint = _open_file(folder / name, stack)
            return dataclasses.replace(checkpoint, config=config)
        if (folder / f"{name}.index.json").exists():
            checkpoint = _open_shards(folder / f"{name}.index.json", stack)
            return dataclasses.replace(checkpoint, config=config)
    raise ValueError(
        f"{folder} holds neither {' nor '.join(WEIGHTS)}, nor an index of shards; it "
        f"holds {', '.join(sorted(p.name for p in folder.iterdir())) or 'nothing'}."
    )


def _open_shards(index: epath.Path, stack: contextlib.ExitStack) -> Checkpoint:
    """The files of an index as one checkpoint; each must hold what the index says."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map of tensor name to file name.")
    shards: dict[str, Checkpoint] = {}
    for file_name in sorted(set(map(str, weight_map.values()))):
        shard = index.parent / file_name
        if "/" in file_name or not shard.exists():
            raise ValueError(
                f"{index} names the shard {file_name}, which is not in its folder; "
                "download the checkpoint again, all shards of it."
            )
        shards[file_name] = _open_file(shard, stack)
    held = [(name, file) for file, shard in shards.items() for name in shard.shapes]
    differing = sorted({name for name, _ in set(held) ^ set(weight_map.items())})
    if differing or len(held) != len(weight_map):
        raise ValueError(
            f"{index} and its shards disagree about {', '.join(differing[:20])}; "
            "they come from different checkpoints."
        )
    return Checkpoint(
        path=str(index),
        shapes={name: shards[file].shapes[name] for name, file in held},
        config={},
        load=lambda name: shards[weight_map[name]].load(name),
    )


def _open_file(path: epath.Path, stack: contextlib.ExitStack) -> Checkpoint:
    if path.suffix != ".safetensors" and path.suffix not in TORCH_SUFFIXES:
        raise ValueError(
            f"{path} is neither a .safetensors file nor a PyTorch one "
            f"({', '.join(TORCH_SUFFIXES)})."
        )
    local_path = str(path)
    if "://" in local_path:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        local_path = f"{folder}/{path.name}"
        path.copy(local_path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path, local_path)
    return _open_torch(path, local_path)


def _open_safetensors(path: epath.Path, local_path: str) -> Checkpoint:
    try:
        header = safetensors_file.read_header(local_path)
    except ValueError as error:
        raise ValueError(
            f"{path} is no readable safetensors file ({error}); it is damaged or was "
            "downloaded in part."
        ) from error
    return Checkpoint(
        path=str(path),
        shapes={name: entry.shape for name, entry in header.entries.items()},
        config={},
        load=lambda name: safetensors_file.read_tensor(header, name),
        metadata=header.metadata,
    )


def _open_torch(path: epath.Path, local_path: str) -> Checkpoint:
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
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as PyTorch weights ({type(error).__name__}: "
            f"{reason}). It is damaged, downloaded in part, or holds Python objects "
            "besides tensors, which are never unpickled here."
        ) from error
    if isinstance(state, dict):
        for wrapper in ("state_dict", "model"):
            if isinstance(state.get(wrapper), dict):
                state = state[wrapper]
                break
    if not isinstance(state, dict) or not state:
        raise ValueError(
            f"{path} holds a {type(state).__name__}; wanted tensors by name."
        )
    others = [str(k) for k, v in state.items() if not isinstance(v, torch.Tensor)]
    if others:
        raise ValueError(
            f"{path} holds values that are no tensors: {', '.join(others[:20])}."
        )

    def load(name: str) -> np.ndarray:
        tensor = state[name].detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    shapes = {str(name): tuple(value.shape) for name, value in state.items()}
    return Checkpoint(str(path), shapes, {}, load)


def _check_checksums(local_path: str) -> None:
    """PyTorch writes a checksum for each tensor and doesn't look at it again."""
    with zipfile.ZipFile(local_path) as file:
        damaged = file.testzip()
    if damaged:
        raise ValueError(f"wrong checksum of {damaged}")


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON: {error}") from error
    if isinstance(value, dict):
        return value
    raise ValueError(f"{path} holds a {type(value).__name__}; wanted an object.")
