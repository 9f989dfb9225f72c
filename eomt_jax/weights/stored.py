"""Reads any supported checkpoint as fields and parameters at the stored sizes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from eomt_jax.json_files import read_object
from eomt_jax.models.registry import network_class
from eomt_jax.models.variants import VARIANTS
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.classes import find_dataset_info, published_name
from eomt_jax.weights.foreign import deltas
from eomt_jax.weights.foreign.backbones import is_backbone, read_vit
from eomt_jax.weights.foreign.eomt import (
    StoredEomt,
    holds_differences,
    is_eomt,
    read_eomt,
)
from eomt_jax.weights.foreign.prefixes import with_plain_names
from eomt_jax.weights.formats import hub
from eomt_jax.weights.formats.files import open_checkpoint
from eomt_jax.weights.native import model_folder, single_file
from eomt_jax.weights.wording import listed

# Options that cannot be inferred from tensor names or shapes.
OPTIONS = ("num_heads", "layer_norm_eps", "rope_theta")
ASSUMED_SIDE = 640  # pixels, of most published models
PROCESSOR_FILE = "preprocessor_config.json"


class BackboneError(ValueError):
    """A whole network was asked for, and the checkpoint holds only a backbone."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """The network that a path holds.

    Attributes:
      kind: the name of the network's class, or "ViT" for a backbone alone.
      vit_fields: fields of the backbone; empty for a network without one.
      fields: fields of the network beside its backbone; empty for a backbone alone.
      params: float32 parameters of the network.
      dataset_info: the class table, if it is known.
      notes: sentences for the user.
      checked: whether fields and parameters are known to fit.
    """

    kind: str
    vit_fields: dict[str, Any]
    fields: dict[str, Any]
    params: dict[str, Any]
    dataset_info: DatasetInfo | None = None
    notes: tuple[str, ...] = ()
    checked: bool = True

    @property
    def vit_params(self) -> dict[str, Any]:
        network = network_class(self.kind)
        return self.params[network.backbone_name] if network else self.params


def read_stored_backbone(path: epath.PathLike, options: Mapping[str, Any]) -> Stored:
    """Reads a backbone, or an EoMT that needs no other backbone.

    `options` holds some of OPTIONS, and image_size: see `infer_architecture`.
    """
    source = hub.resolve(path)
    options = {**_known(options), "image_size": options.get("image_size")}
    with _open(source) as (own, checkpoint):
        if own:
            if not own.vit_fields:
                raise ValueError(f"{path} holds a {own.kind}, which has no backbone.")
            return own
        if not is_eomt(checkpoint):
            architecture, params = read_vit(checkpoint, **options)
            fields = architecture.vit_fields()
            return Stored("ViT", fields, {}, params, notes=checkpoint.notes)
        eomt = read_eomt(checkpoint, **options)
    fields = eomt.architecture.vit_fields()
    return Stored("EoMT", fields, {}, eomt.params, notes=checkpoint.notes)


def read_stored_network(
    path: epath.PathLike,
    *,
    backbone: epath.PathLike,
    image_size: tuple[int, int] | None,
    delta: bool | None,
    options: Mapping[str, Any],
) -> Stored:
    """Reads a network; for the arguments see `load.open_network`.

    `options` holds some of OPTIONS, and num_query_blocks.
    """
    source = hub.resolve(path)
    known, base = _known(options), None
    with _open(source) as (own, checkpoint):
        if own and own.kind != "ViT":
            deltas.check_backbone(str(path), backbone, is_delta=False)
            return own
        if own or is_backbone(checkpoint) and not is_eomt(checkpoint):
            raise BackboneError(
                f"{path} holds a backbone, not a whole network; open it with "
                "eomt_jax.load_backbone."
            )
        if str(backbone) and holds_differences(checkpoint, delta):
            base = read_stored_backbone(backbone, options)
            # The backbone may have options that its differences don't have.
            told = base.vit_fields
            known = {k: told.get(k) if v is None else v for k, v in known.items()}
        side = published_name(str(path))[1] or ASSUMED_SIDE
        eomt = read_eomt(
            checkpoint,
            delta=delta,
            backbone=backbone,
            image_size=image_size or (side, side),
            **known,
        )
    architecture = eomt.architecture
    vit_fields, params = architecture.vit_fields(), eomt.params
    if base:
        params["vit"] = deltas.add_backbone(
            (vit_fields, params["vit"]),
            (base.vit_fields, base.vit_params),
            path=str(path),
            backbone_path=str(backbone),
        )
    num_query_blocks, notes = _num_query_blocks(
        str(path), eomt, options.get("num_query_blocks")
    )
    sized = architecture.positions == "learned" or "image_size" in checkpoint.config
    if not sized and not image_size:
        notes.append(
            f"It doesn't say the size of its images, taken to be {side} pixels; give "
            "image_size for another."
        )
    info, told = find_dataset_info(
        str(path),
        architecture.num_classes,
        config=checkpoint.config,
        processor=_read_processor(source),
    )
    fields = {
        "num_classes": architecture.num_classes,
        "num_queries": architecture.num_queries,
        "num_query_blocks": num_query_blocks,
    }
    notes = (*checkpoint.notes, *notes, *told)
    return Stored("EoMT", vit_fields, fields, params, info, notes)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options.get(name) for name in OPTIONS}


def _num_query_blocks(
    path: str, eomt: StoredEomt, given: int | None
) -> tuple[int, list[str]]:
    """Returns how many blocks see the queries, and notes on them."""
    a, notes = eomt.architecture, []
    found = eomt.num_query_blocks or given
    if found is None:
        published = {
            v.num_query_blocks
            for v in VARIANTS.values()
            if (v.embed_dim, v.depth, v.positions)
            == (a.embed_dim, a.depth, a.positions)
        }
        if not published:
            raise ValueError(
                f"{path} doesn't say how many blocks see the queries; give "
                "num_query_blocks=."
            )
        found = published.pop()
        notes.append(
            f"It doesn't say how many blocks see the queries, taken to be {found} as "
            "published; give num_query_blocks for another number."
        )
    if not 1 <= found <= a.depth:
        raise ValueError(
            f"{path}: {found} of its blocks should see the queries, and it has "
            f"{a.depth}."
        )
    if any(eomt.mask_probs) and not eomt.is_delta:
        probs = ", ".join(f"{p:g}" for p in eomt.mask_probs)
        notes.append(
            f"Its attn_mask_probs are {probs}: unless they are 0, transformers masks "
            "attention in inference too. Here inference never does, which is how the "
            "method is meant."
        )
    return found, notes


def _read_processor(source: epath.Path) -> dict[str, Any]:
    file = (source if source.is_dir() else source.parent) / PROCESSOR_FILE
    return read_object(file) if file.exists() else {}


@contextlib.contextmanager
def _open(path: epath.Path) -> Iterator[tuple[Stored | None, Any]]:
    """Opens a path once, and yields what of ours it holds, or another's checkpoint."""
    if model_folder.is_native(path):
        config = model_folder.read_model_config(path)
        step, notes = model_folder.chosen_step(path)
        yield _native(path, config, model_folder.read_params(step), notes), None
        return
    with open_checkpoint(path) as checkpoint:
        text = single_file.text_of(checkpoint)
        if text is None:
            yield None, with_plain_names(checkpoint)
            return
        params = single_file.params_of(checkpoint)
        config = model_folder.ModelConfig.from_json(text, f"{path}'s metadata")
        yield _native(path, config, params, ()), None


def _native(
    path: epath.PathLike,
    config: model_folder.ModelConfig,
    params: dict[str, Any],
    notes: tuple[str, ...],
) -> Stored:
    """Returns a checkpoint of ours; dtype and remat are left to whoever opens it."""
    network = network_class(config.kind)
    if network is None:
        fields = dict(config.fields)
        return Stored("ViT", fields, {}, params, notes=notes, checked=False)
    fields = dict(config.fields)
    backbone = network.backbone_name
    vit_fields = fields.pop(backbone) if backbone else {}
    if backbone and backbone not in params:
        raise ValueError(
            f"{path} holds no {config.kind}, as its {model_folder.MODEL_FILE} says, but "
            f"parameters of {listed(sorted(params)[:8])}."
        )
    return Stored(
        config.kind,
        vit_fields,
        fields,
        params,
        config.dataset_info,
        notes=notes,
        checked=False,
    )
