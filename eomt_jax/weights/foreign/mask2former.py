"""Pixel decoder, transformer decoder and class head of transformers' Mask2Former.

Only shapes, the order of elements and names change, so converting there and back is
exact. Legend: D embedding, K classes, Q queries.
"""

import concurrent.futures
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from eomt_jax.weights.foreign.parameters import NUM_THREADS
from eomt_jax.weights.formats.files import Checkpoint
from eomt_jax.weights.wording import listed, shown

MODEL_TYPE = "mask2former"
NUM_LEVELS = 3

_PIXEL = "model.pixel_level_module.decoder."
_DECODER = "model.transformer_module."
_BACKBONE = "model.pixel_level_module.encoder."
_IGNORED = (_BACKBONE, "criterion.")
_PIXEL_LAYERS = f"{_PIXEL}encoder.layers."
_LAYERS = f"{_DECODER}decoder.layers."
# transformers has these in a tensor each in self-attention, and in one in
# cross-attention.
_PARTS = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensor that holds one of our parameters.

    Attributes:
      name: its name in transformers.
      convolution: whether it is the kernel of a convolution.
      part: which third of the tensor is the parameter; None if it is the whole tensor.
    """

    name: str
    convolution: bool = False
    part: int | None = None

    def to_ours(self, path: str, value: np.ndarray) -> np.ndarray:
        """Returns the parameter at a path of ours; `value` is the whole tensor."""
        if self.part is not None:
            value = np.split(value, len(_PARTS))[self.part]
        if not path.endswith("/kernel"):
            return value
        if not self.convolution:
            return value.T
        kernel = value.transpose(2, 3, 1, 0)
        return kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel

    def to_torch(self, path: str, value: np.ndarray) -> np.ndarray:
        """Returns the tensor, or the third of it, from the parameter at a path."""
        if not path.endswith("/kernel"):
            return value
        if not self.convolution:
            return value.T
        value = value if value.ndim == 4 else value[None, None]
        return value.transpose(3, 2, 0, 1)


Table = dict[str, Source]


@dataclasses.dataclass(frozen=True)
class StoredDecoders:
    """Everything of a Mask2Former but its backbone.

    Attributes:
      num_heads: heads of all attention; None if there is no config.json.
      params: float32 parameters `pixel_decoder/…` and `decoder/…` at the stored sizes.
    """

    num_heads: int | None
    params: dict[str, Any]

    @property
    def num_queries(self) -> int:
        return len(self.params["decoder"]["queries"])

    @property
    def num_classes(self) -> int:
        return len(self.params["decoder"]["class_head"]["bias"]) - 1


def is_mask2former(checkpoint: Checkpoint) -> bool:
    """Returns whether the tensors have the names of transformers' Mask2Former."""
    return any(name.startswith(_LAYERS) for name in checkpoint.shapes)


def read_decoders(checkpoint: Checkpoint) -> StoredDecoders:
    """Reads everything of a Mask2Former but its backbone, whatever that is.

    Raises:
      ValueError: another network, tensors missing, unknown, misshapen or not finite.
    """
    if not is_mask2former(checkpoint):
        raise ValueError(
            f"{checkpoint.path} is no Mask2Former that can be read: wanted the names of "
            f"transformers ({_LAYERS}0.…), found "
            f"{listed(sorted(checkpoint.shapes)[:8])}."
        )
    _check_config(checkpoint)
    names = checkpoint.shapes.keys()
    table = _table(
        num_pixel_layers=_depth(names, _PIXEL_LAYERS),
        num_layers=_depth(names, _LAYERS),
        projected=f"{_DECODER}input_projections.0.weight" in names,
    )
    needed = {source.name for source in table.values()}
    missing = sorted(needed - names)
    unknown = sorted(n for n in names - needed if not n.startswith(_IGNORED))
    if missing or unknown:
        raise ValueError(
            f"{checkpoint.path} is no Mask2Former as transformers writes it: missing "
            f"{listed(missing)}; unknown {listed(unknown)}."
        )
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        ordered = sorted(needed)
        tensors = dict(zip(ordered, pool.map(checkpoint.read, ordered)))

    def convert(path: str, source: Source) -> np.ndarray:
        try:
            return source.to_ours(path, tensors[source.name])
        except ValueError as error:
            raise ValueError(
                f"{checkpoint.path}: {source.name} has the shape "
                f"{tensors[source.name].shape}, which is none of a Mask2Former."
            ) from error

    flat = {path: convert(path, source) for path, source in table.items()}
    return StoredDecoders(
        num_heads=checkpoint.config.get("num_attention_heads"),
        params=traverse_util.unflatten_dict(flat, sep="/"),
    )


def state_dict(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns transformers' tensors by name, in float32.

    Args:
      params: a Mask2Former's parameters; only `pixel_decoder` and `decoder` are taken.

    Raises:
      ValueError: a parameter is missing, or transformers has none like it.
    """
    scopes = {name: params[name] for name in ("pixel_decoder", "decoder")}
    flat = traverse_util.flatten_dict(scopes, sep="/")
    table = _table(
        num_pixel_layers=_depth(flat, "pixel_decoder/layer_"),
        num_layers=_depth(flat, "decoder/layer_"),
        projected="decoder/projection_0/kernel" in flat,
    )
    if table.keys() != flat.keys():
        raise ValueError(
            "These are not the parameters of a Mask2Former as transformers has it; they "
            f"differ in {listed(sorted(table.keys() ^ flat.keys())[:20])}."
        )
    tensors: dict[str, list[np.ndarray]] = {}
    for path, source in table.items():
        value = source.to_torch(path, np.asarray(flat[path], np.float32))
        tensors.setdefault(source.name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in tensors.items()}


def _check_config(checkpoint: Checkpoint) -> None:
    """Raises ValueError if config.json describes another network than ours."""
    wanted = {
        "model_type": MODEL_TYPE,
        "pre_norm": False,
        "activation_function": "relu",
        "common_stride": 4,
        "feature_strides": [4, 8, 16, 32],
    }
    for key, value in wanted.items():
        found = checkpoint.config.get(key, value)
        if found != value:
            raise ValueError(
                f"{checkpoint.path}: config.json says {key} = {shown(found)}; only a "
                f"Mask2Former with {value!r} can be read."
            )


def _depth(names: Iterable[str], prefix: str) -> int:
    """Returns one more than the highest number after a prefix."""
    found = (re.match(re.escape(prefix) + r"(\d{1,4})\b", name) for name in names)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _table(*, num_pixel_layers: int, num_layers: int, projected: bool) -> Table:
    """Returns the tensor of each of our parameters.

    Args:
      num_pixel_layers: layers of the pixel decoder.
      num_layers: layers of the transformer decoder.
      projected: whether the transformer decoder projects its levels.
    """
    table = _pixel_table(num_pixel_layers) | {
        "decoder/queries": Source(f"{_DECODER}queries_features.weight"),
        "decoder/query_positions": Source(f"{_DECODER}queries_embedder.weight"),
        "decoder/level_embedding": Source(f"{_DECODER}level_embed.weight"),
        **_layer("decoder/norm", f"{_DECODER}decoder.layernorm"),
        **_layer("decoder/class_head", "class_predictor"),
    }
    for i in range(NUM_LEVELS):
        mask_head = f"{_DECODER}decoder.mask_predictor.mask_embedder.{i}.0"
        table |= _layer(f"decoder/mask_head/layer_{i}", mask_head)
        if projected:
            name = f"{_DECODER}input_projections.{i}"
            table |= _layer(f"decoder/projection_{i}", name, convolution=True)
    for i in range(num_layers):
        path, name = f"decoder/layer_{i}", f"{_LAYERS}{i}"
        cross, own = f"{path}/cross_attention", f"{path}/self_attention"
        for part, ours in enumerate(_PARTS):
            joint = f"{name}.cross_attn.in_proj"
            table[f"{cross}/{ours}/kernel"] = Source(f"{joint}_weight", part=part)
            table[f"{cross}/{ours}/bias"] = Source(f"{joint}_bias", part=part)
            table |= _layer(f"{own}/{ours}", f"{name}.self_attn.{ours[0]}_proj")
        table |= _layer(f"{cross}/out", f"{name}.cross_attn.out_proj")
        table |= _layer(f"{own}/out", f"{name}.self_attn.out_proj")
        table |= _layer(f"{path}/norm1", f"{name}.cross_attn_layer_norm")
        table |= _layer(f"{path}/norm2", f"{name}.self_attn_layer_norm")
        table |= _layer(f"{path}/norm3", f"{name}.final_layer_norm")
        table |= _feed_forward(path, name)
    return table


def _pixel_table(num_layers: int) -> Table:
    table = {
        "pixel_decoder/level_embedding": Source(f"{_PIXEL}level_embed"),
        # Convolutions before a norm have no bias, but for the projections.
        "pixel_decoder/lateral/kernel": Source(f"{_PIXEL}adapter_1.0.weight", True),
        "pixel_decoder/smoothing/kernel": Source(f"{_PIXEL}layer_1.0.weight", True),
        **_layer("pixel_decoder/lateral_norm", f"{_PIXEL}adapter_1.1"),
        **_layer("pixel_decoder/smoothing_norm", f"{_PIXEL}layer_1.1"),
        **_layer(
            "pixel_decoder/mask_projection",
            f"{_PIXEL}mask_projection",
            convolution=True,
        ),
    }
    for i in range(NUM_LEVELS):
        path, name = f"pixel_decoder/projection_{i}", f"{_PIXEL}input_projections.{i}"
        table |= _layer(path, f"{name}.0", convolution=True)
        table |= _layer(f"{path}_norm", f"{name}.1")
    for i in range(num_layers):
        path, name = f"pixel_decoder/layer_{i}", f"{_PIXEL_LAYERS}{i}"
        for ours, theirs in [
            ("offsets", "sampling_offsets"),
            ("weights", "attention_weights"),
            ("value", "value_proj"),
            ("out", "output_proj"),
        ]:
            table |= _layer(f"{path}/deformable/{ours}", f"{name}.self_attn.{theirs}")
        table |= _layer(f"{path}/norm1", f"{name}.self_attn_layer_norm")
        table |= _layer(f"{path}/norm2", f"{name}.final_layer_norm")
        table |= _feed_forward(path, name)
    return table


def _layer(path: str, name: str, *, convolution: bool = False) -> Table:
    """Returns the rows of a layer's kernel, or a norm's scale, and of its bias."""
    weight = "scale" if re.search(r"norm\d?$", path) else "kernel"
    return {
        f"{path}/{weight}": Source(f"{name}.weight", convolution),
        f"{path}/bias": Source(f"{name}.bias"),
    }


def _feed_forward(path: str, name: str) -> Table:
    return _layer(f"{path}/mlp/up", f"{name}.fc1") | _layer(
        f"{path}/mlp/down", f"{name}.fc2"
    )
