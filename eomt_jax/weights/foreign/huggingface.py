"""Writes our EoMT as a folder that transformers loads, without transformers or torch.

folder/config.json                 fields of EomtConfig or EomtDinov3Config
folder/model.safetensors           in shards above 5 GB, with their index
folder/preprocessor_config.json    fields of EomtImageProcessor
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.traverse_util
import numpy as np
from etils import epath

from eomt_jax.models.eomt import EoMT
from eomt_jax.models.network import Network
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.foreign.eomt_names import (
    HUGGING_FACE_EOMT,
    HUGGING_FACE_EOMT_DINOV3,
)
from eomt_jax.weights.foreign.huggingface_config import (
    architecture_of,
    class_config,
    network_config,
    processor_config,
)
from eomt_jax.weights.foreign.name_maps import Naming
from eomt_jax.weights.formats.files import write_safetensors
from eomt_jax.weights.new_folder import new_folder

MAX_SHARD_BYTES = 5_000_000_000  # transformers' own


class Tensor(NamedTuple):
    """A tensor of transformers, and the parameter of ours that it is or is part of."""

    path: str
    value: np.ndarray


def save(
    folder: epath.PathLike,
    model: Network,
    params: dict[str, Any],
    *,
    dataset_info: DatasetInfo | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the folder, whole or not at all; it may be in a bucket.

    Args:
      folder: a new folder.
      model: the network; its fields `dtype` and `remat` aren't written.
      params: parameters of `model`, which are written in float32.
      dataset_info: names of the classes, and the task, which decides how photographs
        are cut. It is also written to config.json as a whole, from where `load` reads
        it.
      max_shard_bytes: most bytes of one file of weights.

    Raises:
      ValueError: transformers has no such network, a parameter is not finite, or there
        is something at `folder`.
    """
    model = as_eomt(model)
    config = network_config(model) | class_config(model, dataset_info)
    tensors = {name: t.value for name, t in named_tensors(model, params).items()}
    tensors |= _buffers(model)
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} holds values that are not finite.")
    with new_folder(folder) as unfinished:
        _write_weights(unfinished, tensors, max_shard_bytes)
        _write_json(unfinished / "config.json", config)
        _write_json(
            unfinished / "preprocessor_config.json",
            processor_config(model, dataset_info),
        )


def as_eomt(model: Network) -> EoMT:
    """Returns the network if it is an EoMT, which is what transformers has.

    Raises:
      ValueError: it is another network.
    """
    if not isinstance(model, EoMT):
        raise ValueError(  # noqa: TRY004
            f"transformers has no network like this {type(model).__name__}: only an EoMT "
            "can go there."
        )
    return model


def _buffers(model: EoMT) -> dict[str, np.ndarray]:
    """Returns the tensors that transformers has beside the parameters."""
    # transformers masks attention in inference too where these are not 0.
    mask_probs = np.full(model.num_query_blocks, model.masked_inference, np.float32)
    # The weights of the classes in its loss; the last one is that of no object.
    class_weights = np.append(np.ones(model.num_classes), 0.1).astype(np.float32)
    return {
        naming_of(model).mask_probs: mask_probs,
        "criterion.empty_weight": class_weights,
    }


def naming_of(model: EoMT) -> Naming:
    """Returns the naming of transformers' EoMT with the positions of this ViT."""
    rotary = model.vit.positions == "rotary"
    return HUGGING_FACE_EOMT_DINOV3 if rotary else HUGGING_FACE_EOMT


def named_tensors(model: EoMT, params: dict[str, Any]) -> dict[str, Tensor]:
    """Returns transformers' parameters by name, as float32 views of ours if possible.

    Query, key and value have a tensor each there, and so have SwiGLU's gate and value.
    """
    naming = naming_of(model)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    table = naming.table_of(architecture_of(model))
    if table.keys() != flat.keys():
        raise ValueError(
            "These are not the parameters of this model; they differ in "
            f"{', '.join(sorted(table.keys() ^ flat.keys())[:20])}."
        )
    tensors = {}
    for path, names in table.items():
        value = naming.layout(path).to_torch(np.asarray(flat[path], np.float32))
        parts = np.split(value, len(names))
        tensors |= {n: Tensor(path, part) for n, part in zip(names, parts)}
    if not model.vit.num_register_tokens:
        # transformers always has this tensor; an empty one adds nothing.
        empty = np.zeros((1, 0, model.vit.embed_dim), np.float32)
        name = str(naming.stem["register_tokens"])
        tensors[name] = Tensor("vit/class_token", empty)
    return tensors


def _write_weights(
    folder: pathlib.Path, tensors: dict[str, np.ndarray], max_shard_bytes: int
) -> None:
    shards = list(_shards(tensors, max_shard_bytes))
    metadata = {"format": "pt"}  # without it transformers refuses the file
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", tensors, metadata)
        return
    weight_map = {}
    for i, shard in enumerate(shards, start=1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard, metadata)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _shards(
    tensors: dict[str, np.ndarray], max_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    """Splits tensors into shards, in order; each is filled up to max_bytes.

    A tensor that is larger has a shard of its own.
    """
    shard, size = {}, 0
    for name, value in tensors.items():
        if shard and size + value.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = value
        size += value.nbytes
    yield shard


def _write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
