"""The network of a config, with the weights that it starts from."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from eomt_jax.models import variants
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.training.parameter_report import Report, report_groups
from eomt_jax.weights import native
from eomt_jax.weights.load import Loaded, build_vit, open_eomt, read_backbone
from eomt_jax.weights.resample import resample_vit
from eomt_jax.weights.wording import listed

PyTree = Any

# What weights must share with the variant; registers follow the weights.
VARIANT_FIELDS = (
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_dim",
    "mlp_type",
    "qkv_bias",
    "positions",
)

# What becomes of a checkpoint's class head; "auto" keeps it where the classes agree.
CLASS_HEAD_CHOICES = ("auto", "keep", "new", "by_name")


@dataclasses.dataclass(frozen=True)
class Initialization:
    """A network, and what of it is not drawn at random.

    Attributes:
      model: the network; without registers where the backbone has none.
      loaded: pre-trained parameters, for `state.create_state`; None without any. The
        queries may be fewer than the network's, and NaN stands for new values.
      report: one row for each group of parameters that the network has; none of a run
        that is resumed.
      notes: a sentence on whatever the report's numbers don't explain.
      warning: what is probably not meant; empty where there is nothing.
    """

    model: EoMT
    loaded: PyTree | None
    report: Report
    notes: tuple[str, ...] = ()
    warning: str = ""


def initialize(
    variant: str,
    *,
    class_names: Sequence[str],
    num_queries: int,
    image_size: tuple[int, int],
    patch_size: int = 16,
    dtype: str = "bfloat16",
    remat: bool = False,
    backbone: epath.PathLike = "",
    checkpoint: epath.PathLike = "",
    from_scratch: bool = False,
    class_head: str = "auto",
    resumed: native.ModelConfig | None = None,
) -> Initialization:
    """Builds an EoMT and reads what it starts from: nothing, a backbone or an EoMT.

    Paths may be names on the Hugging Face hub, as everywhere in `weights.load`.

    Args:
      variant: a key of `variants.VARIANTS`.
      class_names: of the dataset, in label order, without "no object".
      num_queries: how many segments can be predicted. Of a checkpoint with more the
        first ones are taken; to one with fewer new ones are added.
      image_size: (height, width) in pixels.
      patch_size: in pixels; a checkpoint settles it.
      dtype: of activations.
      remat: see ViT.
      backbone: path of whatever `weights.load.read_backbone` reads, a whole EoMT
        among it, whose heads are left; empty for none. Beside a checkpoint: what that
        is a delta to.
      checkpoint: path of whatever `weights.load.open_eomt` reads; empty for none.
      from_scratch: whether a network without either is meant to learn from nothing:
        LayerScale then starts at 1, and there is no warning.
      class_head: what becomes of the checkpoint's class head: "keep" it, start a "new"
        one, keep what belongs to classes of these names ("by_name") and draw the rest,
        or "auto": keep it if its classes have these names in this order.
      resumed: what the run that is resumed wrote of its network. Its parameters are in
        its own checkpoint, so neither backbone nor checkpoint are read again.

    Raises:
      ValueError: backbone or checkpoint are of another variant or cannot be read, both
        are given though the checkpoint is no delta, or a class head is to be kept that
        doesn't fit.
    """
    if class_head not in CLASS_HEAD_CHOICES:
        raise ValueError(
            f"init.class_head = {class_head!r}: there are "
            f"{', '.join(CLASS_HEAD_CHOICES)}"
        )
    if class_head in ("keep", "by_name") and not checkpoint:
        raise ValueError(
            f"init.class_head = {class_head!r} without init.checkpoint: only a checkpoint has a "
            "class head"
        )
    if from_scratch and (backbone or checkpoint):
        given = "init.checkpoint" if checkpoint else "init.backbone"
        raise ValueError(f"init.from_scratch = True contradicts {given}: set only one")
    overrides: dict[str, Any] = {"layer_scale_init": 1.0} if from_scratch else {}
    model = variants.create_eomt(
        variant,
        num_classes=len(class_names),
        num_queries=num_queries,
        image_size=image_size,
        patch_size=patch_size,
        dtype=dtype,
        remat=remat,
        **overrides,
    )
    if resumed:
        fields = dict(resumed.fields)
        vit = build_vit("model.json of the run that is resumed", fields.pop("vit"))
        _check_variant(variant, vit, "the run that is resumed")
        model = model.clone(
            vit=_at_sizes_of(model.vit, vit),
            num_query_blocks=fields["num_query_blocks"],
        )
        return Initialization(model, None, ())
    if checkpoint:
        opened = _open_checkpoint(
            checkpoint,
            class_names,
            backbone=backbone,
            image_size=image_size,
            num_queries=num_queries,
            class_head=class_head,
        )
        vit = opened.model.vit
        _check_variant(variant, vit, f"init.checkpoint = {str(checkpoint)!r}")
        _check_patch_size(patch_size, vit, checkpoint)
        model = model.clone(
            vit=_at_sizes_of(model.vit, vit),
            num_query_blocks=opened.model.num_query_blocks,
        )
        resampled = {"vit/position_embedding"} if opened.resampled else set()
        report = report_groups(model, opened.params, resampled)
        return Initialization(model, opened.params, report, opened.notes)
    if backbone:
        fields, params, told = read_backbone(backbone)
        vit = build_vit(backbone, fields)
        _check_variant(variant, vit, f"init.backbone = {str(backbone)!r}")
        model, params, resampled = _fit_vit(model, vit, params)
        report = report_groups(model, {"vit": params}, resampled)
        notes = (f"backbone: {backbone}", *told)
        return Initialization(model, {"vit": params}, report, notes)
    report = report_groups(model, {}, set())
    return Initialization(model, None, report, warning=_scratch_warning(variant, model))


def _scratch_warning(variant: str, model: EoMT) -> str:
    """Says that nothing is loaded, where LayerScale is too small to learn without."""
    scale = model.vit.layer_scale_init
    if scale >= 1:
        return ""
    return (
        f"WARNING: no weights are loaded. model.variant = {variant!r} starts from random "
        f"numbers with LayerScale at {scale:g}, where a network that isn't pre-trained "
        "hardly learns. Set --config.init.checkpoint or --config.init.backbone; "
        "docs/own_data.md lists what there is. If it is meant, set "
        "--config.init.from_scratch=true: LayerScale then starts at 1. The published "
        "rates and clip are made for pre-trained weights; configs/quickstart.py has "
        "others."
    )


def _open_checkpoint(
    path: epath.PathLike,
    class_names: Sequence[str],
    *,
    backbone: epath.PathLike,
    image_size: tuple[int, int],
    num_queries: int,
    class_head: str,
) -> Loaded:
    """The checkpoint with those of its parameters that are taken, and notes."""
    path, chosen = native.chosen_step(path)
    opened = open_eomt(path, backbone=backbone, image_size=image_size)
    model, params, info = opened.model, dict(opened.params), opened.dataset_info
    added_to = f", a delta to {backbone}" if backbone else ""
    notes = [f"checkpoint: {path}{added_to}", *chosen, *opened.notes]
    if num_queries != model.num_queries:
        params["queries"] = params["queries"][:num_queries]
        num_new = num_queries - model.num_queries
        which = "the" if num_new > 0 else f"the first {num_queries} of the"
        rest = f", and {num_new} new ones" if num_new > 0 else ""
        notes.append(f"queries: {which} checkpoint's {model.num_queries}{rest}")
    trained_names = [c.name for c in info.classes] if info else None
    if class_head == "keep" and model.num_classes != len(class_names):
        raise ValueError(
            f"init.class_head = 'keep': {path} predicts {model.num_classes} classes "
            f"and the dataset has {len(class_names)}; set init.class_head = 'new'"
        )
    if class_head == "keep" or (
        class_head == "auto" and trained_names == list(class_names)
    ):
        notes.append("class head: kept")
    elif class_head == "by_name":
        sources = _sources_by_name(path, trained_names, class_names)
        params["class_head"] = _take_classes(params["class_head"], sources)
        for what, are_kept in (("kept", True), ("new", False)):
            names = [n for n, i in zip(class_names, sources) if (i >= 0) == are_kept]
            number = f"{len(names)} of {len(class_names)} classes"
            notes.append(f"class head, {what}: {number}: {listed(names)}")
    else:
        del params["class_head"]
        whose = f"the {model.num_classes} of {info.name}" if info else "not known"
        notes.append(f"class head: new; the checkpoint's classes are {whose}")
    return dataclasses.replace(opened, params=params, notes=tuple(notes))


def _sources_by_name(
    path: epath.PathLike, trained: Sequence[str] | None, wanted: Sequence[str]
) -> list[int]:
    """For each wanted class the checkpoint's of that name, in any case; -1 without."""
    if trained is None:
        raise ValueError(
            f"init.class_head = 'by_name': {path} doesn't say the names of its classes; "
            "set init.class_head = 'new', or 'keep' where its classes are the dataset's"
        )
    labels: dict[str, int] = {}
    for label, name in enumerate(trained):
        labels.setdefault(name.strip().casefold(), label)
    sources = [labels.get(name.strip().casefold(), -1) for name in wanted]
    if max(sources) < 0:
        raise ValueError(
            f"init.class_head = 'by_name': none of the dataset's classes "
            f"({listed(wanted[:8])}) has the name of one of {path}'s "
            f"({listed(trained[:8])}); set init.class_head = 'new'"
        )
    return sources


def _take_classes(head: PyTree, sources: Sequence[int]) -> PyTree:
    """A class head of other classes: their logits' weights, NaN where a source is -1.

    "No object", the last one, is kept.
    """
    taken = np.array([*sources, -1])
    new = np.array([*(source < 0 for source in sources), False])
    return jax.tree.map(
        lambda x: np.where(new, np.float32(np.nan), x[..., taken]), head
    )


def _fit_vit(model: EoMT, stored: ViT, params: PyTree) -> tuple[EoMT, PyTree, set[str]]:
    """Model and weights with the stored ViT at the model's sizes; what was resampled."""
    vit = _at_sizes_of(model.vit, stored)
    params = resample_vit(params, grid_size=vit.grid_size, patch_size=vit.patch_size)
    resampled = set()
    if stored.patch_size != vit.patch_size:
        resampled.add("vit/patch_embedding/kernel")
    if vit.positions == "learned" and stored.grid_size != vit.grid_size:
        resampled.add("vit/position_embedding")
    return model.clone(vit=vit), params, resampled


def _at_sizes_of(wanted: ViT, stored: ViT) -> ViT:
    """The stored ViT with all that a config decides as wanted."""
    return stored.clone(
        image_size=wanted.image_size,
        patch_size=wanted.patch_size,
        dtype=wanted.dtype,
        remat=wanted.remat,
    )


def _check_patch_size(patch_size: int, vit: ViT, path: epath.PathLike) -> None:
    if vit.patch_size != patch_size:
        raise ValueError(
            f"init.checkpoint = {str(path)!r} has patches of {vit.patch_size} pixels, "
            f"to which its upscaling belongs, and model.patch_size = {patch_size}; set "
            f"model.patch_size = {vit.patch_size}"
        )


def _check_variant(variant: str, vit: ViT, source: str) -> None:
    """Raises ValueError unless the weights from `source` are of the variant."""
    found = {name: getattr(vit, name) for name in VARIANT_FIELDS}
    wanted = {name: getattr(variants.VARIANTS[variant], name) for name in found}
    if found == wanted:
        return
    differing = ", ".join(
        f"{name} {found[name]!r} instead of {wanted[name]!r}"
        for name in found
        if found[name] != wanted[name]
    )
    fitting = [
        name
        for name, sizes in variants.VARIANTS.items()
        if all(getattr(sizes, field) == value for field, value in found.items())
    ]
    advice = f"set model.variant = {fitting[0]!r}" if fitting else "no variant fits it"
    raise ValueError(
        f"{source} is not of model.variant = {variant!r}: it has {differing}; {advice}"
    )
