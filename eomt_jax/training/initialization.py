"""The network of a config, with the weights that it starts from."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from eomt_jax.models.network import Network
from eomt_jax.models.registry import ModelOptions, create_network
from eomt_jax.models.variants import check_variant
from eomt_jax.options import Choice, Flag, Text, option
from eomt_jax.training.checkpoint_fit import fit_class_head, fit_queries
from eomt_jax.training.reporting.parameter_report import Report, report_groups
from eomt_jax.weights.build import build_vit
from eomt_jax.weights.decoder import open_decoder
from eomt_jax.weights.load import Loaded, open_network, read_backbone
from eomt_jax.weights.native import model_folder
from eomt_jax.weights.native.model_fields import build_module, module_class
from eomt_jax.weights.resample import resample_vit, resampled_params

PyTree = Any

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
    decoder: str = option(
        "",
        Text(),
        "A Mask2Former's pixel decoder and decoder start from these weights of "
        "transformers' Mask2Former, whatever its backbone is: a file, a folder or a name "
        "on the Hugging Face hub.",
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
    options: ModelOptions,
    init: InitOptions = InitOptions(),
    *,
    class_names: Sequence[str],
    image_size: tuple[int, int],
    resumed: model_folder.ModelConfig | None = None,
) -> Initialization:
    """Builds a network and reads its first weights: none, a backbone's or a checkpoint's.

    Args:
      options: of the network. A checkpoint settles the patch size.
      init: where the weights are; see `weights.load` for the paths.
      class_names: of the dataset, in label order, without "no object".
      image_size: (height, width) in pixels.
      resumed: model.json of the run that is resumed. Its parameters are in its own
        checkpoint, so neither backbone nor checkpoint are read again.

    Raises:
      ValueError: backbone or checkpoint are of another variant or cannot be read, both
        are given though the checkpoint is no delta, or a class head is to be kept that
        doesn't fit.
    """
    if init.class_head not in CLASS_HEAD_CHOICES:
        raise ValueError(
            f"init.class_head = {init.class_head!r}: there are "
            f"{', '.join(CLASS_HEAD_CHOICES)}"
        )
    has_head = init.checkpoint or init.decoder
    if init.class_head in ("keep", "by_name") and not has_head:
        raise ValueError(
            f"init.class_head = {init.class_head!r} without init.checkpoint or "
            "init.decoder: only they have a class head"
        )
    if init.checkpoint and init.decoder:
        raise ValueError(
            "init.checkpoint and init.decoder are both given, and both have a decoder: "
            "set only one"
        )
    if init.from_scratch and (init.backbone or init.checkpoint):
        given = "init.checkpoint" if init.checkpoint else "init.backbone"
        raise ValueError(f"init.from_scratch = True contradicts {given}: set only one")
    fields: dict[str, Any] = vars(options) | {"image_size": image_size}
    if init.from_scratch:
        fields["layer_scale_init"] = 1.0
    model = create_network(**fields, num_classes=len(class_names))
    variant = options.variant
    if resumed:
        source = "model.json of the run that is resumed"
        stored = build_module(module_class(source, resumed.kind), resumed.fields)
        _check_same_kind(model, stored, "the run that is resumed")
        _check_backbone(variant, stored, "the run that is resumed")
        model = _like(model, stored, options, "the run that is resumed")
        return Initialization(model, None, ())
    if init.checkpoint:
        source = f"init.checkpoint = {str(init.checkpoint)!r}"
        opened = _open_checkpoint(options, init, class_names, image_size)
        _check_same_kind(model, opened.model, source)
        _check_backbone(variant, opened.model, source)
        _check_patch_size(options.patch_size, opened.model, source)
        model = _like(model, opened.model, options, source)
        report = report_groups(model, opened.params, opened.resampled)
        return Initialization(model, opened.params, report, opened.notes)
    loaded, resampled, notes = {}, set(), ()
    if init.backbone:
        source = f"init.backbone = {str(init.backbone)!r}"
        if model.backbone is None:
            raise ValueError(
                f"{source}: a network {options.name!r} has no backbone to load"
            )
        vit_fields, params, notes = read_backbone(init.backbone)
        vit = build_vit(init.backbone, vit_fields)
        check_variant(variant, vit, source)
        model, loaded, resampled = _with_backbone(model, vit, params)
        notes = (f"backbone: {init.backbone}", *notes)
    if init.decoder:
        params, on_decoder = _decoder_params(model, init, class_names)
        loaded, notes = {**loaded, **params}, (*notes, *on_decoder)
    report = report_groups(model, loaded, resampled)
    warning = "" if init.backbone else _scratch_warning(variant, model)
    return Initialization(model, loaded or None, report, notes, warning)


def _decoder_params(
    model: Network, init: InitOptions, class_names: Sequence[str]
) -> tuple[PyTree, tuple[str, ...]]:
    """Returns the decoders' parameters that the network starts from, and notes."""
    try:
        opened = open_decoder(init.decoder, model)
    except ValueError as error:
        raise ValueError(f"init.decoder: {error}") from error
    params, on_queries = fit_queries(opened.params, opened, model.num_queries)
    params, on_head = fit_class_head(
        params, opened, class_names, choice=init.class_head, path=init.decoder
    )
    notes = (f"decoder: {init.decoder}", *opened.notes, *on_queries, *on_head)
    return params, notes


def _like(
    model: Network, stored: Network, options: ModelOptions, source: str
) -> Network:
    """Returns the network with the structure of a stored one."""
    features = getattr(stored, "features", "")
    if options.features not in ("", features):
        raise ValueError(
            f"{source} has the maps {features!r} and config.model.features = "
            f"{options.features!r}; set it to {features!r} or leave it empty"
        )
    model = model.like(stored, num_masked_layers=options.num_masked_layers)
    if options.inference:
        return model
    return model.with_masked_inference(getattr(stored, "masked_inference", False))


def _scratch_warning(variant: str, model: Network) -> str:
    """Says that nothing is loaded, where LayerScale is too small to learn without."""
    scale = 1.0 if model.backbone is None else model.backbone.layer_scale_init
    if scale >= 1:
        return ""
    return (
        f"WARNING: no weights of a backbone are loaded. model.variant = {variant!r} "
        f"starts from random numbers with LayerScale at {scale:g}, where a network that "
        "isn't pre-trained hardly learns. Set --config.init.checkpoint or --config.init.backbone; "
        "docs/own_data.md lists what there is. If it is meant, set "
        "--config.init.from_scratch=true: LayerScale then starts at 1. The published "
        "rates and clip are made for pre-trained weights; configs/quickstart.py has "
        "others."
    )


def _open_checkpoint(
    options: ModelOptions,
    init: InitOptions,
    class_names: Sequence[str],
    image_size: tuple[int, int],
) -> Loaded:
    """Returns the checkpoint with the parameters that are taken of it, and notes."""
    path, chosen = model_folder.chosen_step(init.checkpoint)
    opened = open_network(path, backbone=init.backbone, image_size=image_size)
    added_to = f", a delta to {init.backbone}" if init.backbone else ""
    params, on_queries = fit_queries(opened.params, opened, options.num_queries)
    params, on_head = fit_class_head(
        params, opened, class_names, choice=init.class_head, path=path
    )
    notes = (f"checkpoint: {path}{added_to}", *chosen, *opened.notes)
    notes = (*notes, *on_queries, *on_head)
    return dataclasses.replace(opened, params=params, notes=notes)


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
