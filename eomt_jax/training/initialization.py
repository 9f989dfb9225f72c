"""The network of a config, with the weights that it starts from."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from eomt_jax.models.network import Network
from eomt_jax.models.registry import create_network
from eomt_jax.models.variants import check_variant
from eomt_jax.options import Choice, Flag, Text, option
from eomt_jax.training.parameter_report import Report, report_groups
from eomt_jax.trees import leaf_path
from eomt_jax.weights import native
from eomt_jax.weights.load import Loaded, build_vit, open_network, read_backbone
from eomt_jax.weights.model_fields import build_module, module_class
from eomt_jax.weights.resample import resample_vit, resampled_params
from eomt_jax.weights.wording import listed

PyTree = Any

# What becomes of a checkpoint's class head; "auto" keeps it where the classes agree.
CLASS_HEAD_CHOICES = ("auto", "keep", "new", "by_name")


@dataclasses.dataclass(frozen=True)
class InitOptions:
    """The weights that a run starts from."""

    backbone: str = option(
        "",
        Text(),
        "The backbone starts from these DINOv2 or DINOv3 weights, or from a whole "
        "network's: a file, a folder or a name on the Hugging Face hub. A checkpoint "
        "of differences is added to them.",
    )
    checkpoint: str = option(
        "",
        Text(),
        "The network starts from this checkpoint: a file, a folder or a name on the "
        "Hugging Face hub.",
    )
    from_scratch: bool = option(
        False,
        Flag(),
        "No pre-trained weights are meant: LayerScale starts at 1 instead of a "
        "published size's 1e-5, and nothing warns.",
    )
    class_head: str = option(
        "auto",
        Choice(CLASS_HEAD_CHOICES),
        'The checkpoint\'s class head is kept ("keep"), new ("new"), kept for classes '
        'of the same name ("by_name"), or kept if its classes have the dataset\'s names '
        'in the dataset\'s order, else new ("auto").',
    )


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

    model: Network
    loaded: PyTree | None
    report: Report
    notes: tuple[str, ...] = ()
    warning: str = ""


def initialize(
    name: str = "eomt",
    *,
    variant: str,
    class_names: Sequence[str],
    num_queries: int,
    image_size: tuple[int, int],
    patch_size: int = 16,
    num_masked_layers: int = 0,
    dtype: str = "bfloat16",
    remat: bool = False,
    backbone: epath.PathLike = "",
    checkpoint: epath.PathLike = "",
    from_scratch: bool = False,
    class_head: str = "auto",
    resumed: native.ModelConfig | None = None,
) -> Initialization:
    """Builds a network and reads its first weights: none, a backbone's or a checkpoint's.

    Paths may be names on the Hugging Face hub, as everywhere in `weights.load`.

    Args:
      name: of the kind of network, see `models.registry`.
      variant: a key of `variants.VARIANTS`.
      class_names: of the dataset, in label order, without "no object".
      num_queries: how many segments can be predicted. Of a checkpoint with more the
        first ones are taken; to one with fewer new ones are added.
      image_size: (height, width) in pixels.
      patch_size: in pixels; a checkpoint settles it.
      num_masked_layers: see Network; 0 takes the checkpoint's number, or the variant's.
      dtype: of activations.
      remat: see ViT.
      backbone: path of whatever `weights.load.read_backbone` reads, empty for none. Of
        a whole network the heads are left. Beside a checkpoint: what that is a delta to.
      checkpoint: path of whatever `weights.load.open_network` reads; empty for none.
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
    model = create_network(
        name,
        variant=variant,
        num_classes=len(class_names),
        num_queries=num_queries,
        image_size=image_size,
        patch_size=patch_size,
        dtype=dtype,
        num_masked_layers=num_masked_layers,
        remat=remat,
        **overrides,
    )
    if resumed:
        source = "model.json of the run that is resumed"
        stored = build_module(module_class(source, resumed.kind), resumed.fields)
        _check_same_kind(model, stored, "the run that is resumed")
        _check_backbone(variant, stored, "the run that is resumed")
        model = model.like(stored, num_masked_layers=num_masked_layers)
        return Initialization(model, None, ())
    if checkpoint:
        source = f"init.checkpoint = {str(checkpoint)!r}"
        opened = _open_checkpoint(
            checkpoint,
            class_names,
            backbone=backbone,
            image_size=image_size,
            num_queries=num_queries,
            class_head=class_head,
        )
        _check_same_kind(model, opened.model, source)
        _check_backbone(variant, opened.model, source)
        _check_patch_size(patch_size, opened.model, source)
        model = model.like(opened.model, num_masked_layers=num_masked_layers)
        report = report_groups(model, opened.params, opened.resampled)
        return Initialization(model, opened.params, report, opened.notes)
    if backbone:
        source = f"init.backbone = {str(backbone)!r}"
        if model.backbone is None:
            raise ValueError(f"{source}: a network {name!r} has no backbone to load")
        fields, params, notes = read_backbone(backbone)
        vit = build_vit(backbone, fields)
        check_variant(variant, vit, source)
        model, loaded, resampled = _with_backbone(model, vit, params)
        report = report_groups(model, loaded, resampled)
        notes = (f"backbone: {backbone}", *notes)
        return Initialization(model, loaded, report, notes)
    report = report_groups(model, {}, set())
    return Initialization(model, None, report, warning=_scratch_warning(variant, model))


def _scratch_warning(variant: str, model: Network) -> str:
    """Says that nothing is loaded, where LayerScale is too small to learn without."""
    scale = 1.0 if model.backbone is None else model.backbone.layer_scale_init
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
    opened = open_network(path, backbone=backbone, image_size=image_size)
    model, params, info = opened.model, dict(opened.params), opened.dataset_info
    added_to = f", a delta to {backbone}" if backbone else ""
    notes = [f"checkpoint: {path}{added_to}", *chosen, *opened.notes]
    head = model.class_head_name
    if num_queries != model.num_queries:
        params = _cut_rows(params, model.query_params, num_queries)
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
        params = _take_classes(params, head, sources)
        for what, are_kept in (("kept", True), ("new", False)):
            names = [n for n, i in zip(class_names, sources) if (i >= 0) == are_kept]
            number = f"{len(names)} of {len(class_names)} classes"
            notes.append(f"class head, {what}: {number}: {listed(names)}")
    else:
        params = _without(params, head)
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


def _cut_rows(params: PyTree, paths: Collection[str], num_rows: int) -> PyTree:
    """Returns the tree with the first rows alone of some of its leaves."""
    return _map_leaves(
        params, lambda path, leaf: leaf[:num_rows] if path in paths else leaf
    )


def _take_classes(params: PyTree, head: str, sources: Sequence[int]) -> PyTree:
    """Returns the tree with a class head of other classes; NaN where a source is -1.

    "No object", the last one, is kept.
    """
    taken = np.array([*sources, -1])
    new = np.array([*(source < 0 for source in sources), False])

    def take(path: str, leaf: Any) -> Any:
        if not path.startswith(f"{head}/"):
            return leaf
        return np.where(new, np.float32(np.nan), leaf[..., taken])

    return _map_leaves(params, take)


def _without(params: PyTree, scope: str) -> PyTree:
    """Returns the tree without a scope that is named by its path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    kept = {p: leaf for p, leaf in flat.items() if not p.startswith(f"{scope}/")}
    return traverse_util.unflatten_dict(kept, sep="/")


def _map_leaves(tree: PyTree, function: Callable[[str, Any], Any]) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(leaf_path(path), leaf), tree
    )


def _with_backbone(
    model: Network, stored: Any, params: PyTree
) -> tuple[Network, PyTree, set[str]]:
    """Returns the network with the stored ViT at its sizes, weights, resampled paths."""
    name = model.backbone_name
    vit = stored.resized_like(model.backbone)
    params = resample_vit(params, grid_size=vit.grid_size, patch_size=vit.patch_size)
    resampled = {f"{name}/{leaf}" for leaf in resampled_params(stored, vit)}
    return model.with_backbone(vit), {name: params}, resampled


def _check_same_kind(model: Network, stored: Network, source: str) -> None:
    wanted, found = type(model).__name__, type(stored).__name__
    if wanted != found:
        raise ValueError(
            f"{source} is a network of another kind, {found}; config.model.name stands "
            f"for {wanted}"
        )


def _check_backbone(variant: str, stored: Network, source: str) -> None:
    if stored.backbone is not None:
        check_variant(variant, stored.backbone, source)


def _check_patch_size(patch_size: int, stored: Network, source: str) -> None:
    vit = stored.backbone
    if vit is not None and vit.patch_size != patch_size:
        raise ValueError(
            f"{source} has patches of {vit.patch_size} pixels, to which its upscaling "
            f"belongs, and model.patch_size = {patch_size}; set model.patch_size = "
            f"{vit.patch_size}"
        )
