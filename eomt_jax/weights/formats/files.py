"""Reads tensors by name, one at a time, and writes files whole or not at all.

No pickle is run: files are read by safetensors, or by torch.load with weights_only. Any
defect of a file raises a ValueError that names the file and the tensor.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes  # noqa: F401 (safetensors finds bfloat16 by its name in NumPy)
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jaxtyping import Float32

from eomt_jax import json_files
from eomt_jax.regular_files import check_regular
from eomt_jax.weights.formats import torch_file
from eomt_jax.weights.wording import listed

FLOATS = ("float64", "float32", "float16", "bfloat16")
SUFFIXES = (".safetensors", *torch_file.SUFFIXES)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder, by preference
GIT_LFS = b"version https://git-lfs"

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint.

    Attributes:
      path: the path that was opened, for messages.
      shapes: every tensor's shape.
      config: the config.json of a Hugging Face folder; empty if there is none.
      load: function that reads one tensor in its stored type.
      metadata: the texts in the header of a single safetensors file; otherwise empty.
      notes: sentences for the user, such as which of several copies was taken.
    """

    path: str
    shapes: dict[str, Shape]
    config: dict[str, Any]
    load: Callable[[str], np.ndarray]
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read(self, name: str) -> Float32[np.ndarray, "..."]:
        """Returns a tensor in float32; ValueError for integers, NaN and infinities."""
        try:
            array = self.load(name)
        except Exception as error:
            raise ValueError(f"{self.path}: cannot read {name}: {error}") from error
        if array.dtype.name not in FLOATS:
            raise ValueError(
                f"{self.path}: {name} is stored as {array.dtype.name}; wanted one of "
                f"{', '.join(FLOATS)}. Quantised checkpoints are not supported."
            )
        with np.errstate(over="ignore", invalid="ignore"):  # reported just below
            array = array.astype(np.float32, copy=False)
            finite = np.isfinite(array.sum())  # faster than looking at each
        num_bad = 0 if finite else array.size - np.count_nonzero(np.isfinite(array))
        if num_bad:
            raise ValueError(
                f"{self.path}: {name} holds {num_bad} values that are NaN or infinite; "
                "the file is damaged or comes from a diverged training."
            )
        return array


@contextlib.contextmanager
def open_checkpoint(path: epath.PathLike) -> Iterator[Checkpoint]:
    """Opens a .safetensors or PyTorch file, or a Hugging Face folder, sharded or not.

    The config.json of a folder is also read if the path is the folder's file of
    weights. Files in a bucket are copied to a temporary folder for as long as this is
    open.
    """
    path = epath.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            yield _open_folder(path, stack)
        else:
            config = _read_config(path.parent) if path.name in WEIGHTS else {}
            checkpoint = _open_file(path, stack)
            yield dataclasses.replace(checkpoint, path=str(path), config=config)


def _read_config(folder: epath.Path) -> dict[str, Any]:
    file = folder / "config.json"
    return json_files.read_object(file) if file.exists() else {}


def _open_folder(folder: epath.Path, stack: contextlib.ExitStack) -> Checkpoint:
    config = _read_config(folder)
    for name in WEIGHTS:
        if (folder / name).exists():
            checkpoint = _open_file(folder / name, stack)
            return dataclasses.replace(checkpoint, config=config)
        if (folder / f"{name}.index.json").exists():
            checkpoint = _open_shards(folder / f"{name}.index.json", stack)
            return dataclasses.replace(checkpoint, config=config)
    raise ValueError(
        f"{folder} holds neither {' nor '.join(WEIGHTS)}, nor an index of shards; it "
        f"holds {listed(sorted(p.name for p in folder.iterdir()))}."
    )


def _open_shards(index: epath.Path, stack: contextlib.ExitStack) -> Checkpoint:
    """Opens the files of an index as one checkpoint, and checks them against it."""
    weight_map = json_files.read_object(index).get("weight_map")
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
            f"{index} and its shards disagree about {listed(differing[:20])}; "
            "they come from different checkpoints."
        )
    return Checkpoint(
        path=str(index),
        shapes={name: shards[file].shapes[name] for name, file in held},
        config={},
        load=lambda name: shards[weight_map[name]].load(name),
    )


def _open_file(path: epath.Path, stack: contextlib.ExitStack) -> Checkpoint:
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"{path} is no file of weights; their names end in {', '.join(SUFFIXES)}."
        )
    check_regular(path)
    if path.stat().length < 1000 and path.read_bytes().startswith(GIT_LFS):
        raise ValueError(
            f"{path} stands for a file that git-lfs has not fetched; run `git lfs pull` "
            "in its folder, or download the file itself."
        )
    local_path = str(path)
    if "://" in local_path:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        local_path = f"{folder}/{path.name}"
        path.copy(local_path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path, local_path, stack)
    return _open_torch(path, local_path)


def _open_safetensors(
    path: epath.Path, local_path: str, stack: contextlib.ExitStack
) -> Checkpoint:
    try:
        handle = stack.enter_context(safetensors.safe_open(local_path, "numpy"))
        names, metadata = list(handle.keys()), handle.metadata()
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in names}
    except Exception as error:
        raise ValueError(
            f"{path} is no readable safetensors file ({error}); it is damaged or was "
            "downloaded in part."
        ) from error
    return Checkpoint(str(path), shapes, {}, handle.get_tensor, metadata or {})


def _open_torch(path: epath.Path, local_path: str) -> Checkpoint:
    state, notes = torch_file.read_state(path, local_path)
    return Checkpoint(
        path=str(path),
        shapes={name: tuple(value.shape) for name, value in state.items()},
        config={},
        load=lambda name: torch_file.to_numpy(state[name]),
        notes=notes,
    )


def write_safetensors(
    path: epath.PathLike, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes a file whole or not at all; it may be in a bucket."""
    path = epath.Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The package writes an array's memory and ignores the order of its axes.
    dense = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    unfinished = path.parent / f"{path.name}.unfinished"
    try:
        if "://" in str(path):
            with tempfile.TemporaryDirectory() as folder:
                local_path = f"{folder}/{path.name}"
                safetensors.numpy.save_file(dense, local_path, metadata)
                epath.Path(local_path).copy(unfinished)
        else:
            unfinished.touch()
            mode = os.stat(unfinished).st_mode
            safetensors.numpy.save_file(dense, str(unfinished), metadata)
            os.chmod(unfinished, mode)  # the package's files are its user's alone
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
