"""Loads models and parameters from paths and names on the Hugging Face hub."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from absl import logging
from etils import epath

from eomt_jax.models.network import Network
from eomt_jax.models.vit import ViT
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.build import build_network, build_vit, check_parameters
from eomt_jax.weights.native.model_fields import is_execution
from eomt_jax.weights.resample import resample_vit, resampled_params
from eomt_jax.weights.stored import (
    Stored,
    read_stored_backbone,
    read_stored_network,
)
from eomt_jax.weights.wording import shown

# Fields that change neither the parameters nor their shapes.
FREE_FIELDS = ("layer_norm_eps", "rope_theta", "rope_rescale", "dtype", "remat")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An opened network.

    Attributes:
      model: the network, ready to apply.
      params: float32 NumPy arrays, some of them views in another order of axes; with
        batch statistics if the network has them, see eomt_jax.trees.
      dataset_info: classes and task, if the checkpoint or its published name has them;
        otherwise None.
      notes: sentences that a user should read, such as that the classes are unknown.
      resampled: paths of the parameters that have another size than stored.
    """

    model: Any
    params: dict[str, Any]
    dataset_info: DatasetInfo | None
    notes: tuple[str, ...]
    resampled: frozenset[str] = frozenset()


def open_network(
    path: epath.PathLike,
    *,
    backbone: epath.PathLike = "",
    image_size: tuple[int, int] | None = None,
    delta: bool | None = None,
    masked_inference: bool | None = None,
    **overrides: Any,
) -> Loaded:
    """Opens a network from a checkpoint of ours, of the release or of transformers.

    Args:
      path: a training's work directory, a folder of `model_folder.save`, one step of it
        (…/checkpoints/1000; without a step, the best is read if the training kept it,
        and the newest otherwise), or a file of `model_folder.save_file`; the release's
        .bin, .pth or .ckpt; a folder of transformers. It may be in a bucket. If there
        is nothing at the path, it is a name on the Hugging Face hub, "org/name" or
        "org/name@revision".
      backbone: the DINOv3 backbone that a checkpoint of differences belongs to;
        anything that `load_backbone` takes.
      image_size: (height, width) in pixels; another size than the checkpoint's
        resamples the position embedding, if it has one.
      delta: whether the checkpoint holds such differences; None if it says so itself.
      masked_inference: whether predictions are made with masked attention; None if the
        checkpoint says so itself. Only ours do, others are taken to need none.
      **overrides: fields of the model, such as dtype="bfloat16" or remat=True.
        num_heads (by default the config's, or that of DINO's of this width),
        layer_norm_eps, rope_theta and num_query_blocks are for checkpoints that don't
        have them; others must agree with the parameters.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: the checkpoint is damaged, holds no network, or contradicts an
      argument.
    """
    check_image_size(image_size)
    stored = read_stored_network(
        path,
        backbone=backbone,
        image_size=image_size,
        delta=delta,
        options=overrides,
    )
    fields = stored.fields
    own = {k: overrides.pop(k) for k in list(overrides) if k in fields}
    _check_settled(path, fields, own)
    model = build_network(path, stored)
    if masked_inference is not None:
        model = model.with_masked_inference(masked_inference)
    if not stored.checked:
        check_parameters(path, model, stored.params)
    if model.backbone is None:
        _check_settled(path, fields, overrides)
        model = _adjust(path, model, image_size=image_size, overrides=overrides)
        check_parameters(path, model, stored.params)
        return Loaded(model, stored.params, stored.dataset_info, stored.notes)
    vit, vit_params = _refit(
        path,
        stored,
        image_size=image_size,
        patch_size=stored.vit_fields["patch_size"],
        overrides=overrides,
    )
    notes, name = stored.notes, model.backbone_name
    old, new = model.backbone.grid_size, vit.grid_size
    resampled = frozenset(
        f"{name}/{leaf}" for leaf in resampled_params(model.backbone, vit)
    )
    if resampled:
        notes += (f"Its position embedding was resampled from {old} to {new} patches.",)
    return Loaded(
        model=model.with_backbone(vit),
        params={**stored.params, name: vit_params},
        dataset_info=stored.dataset_info,
        notes=notes,
        resampled=resampled,
    )


def _adjust(
    path: epath.PathLike,
    model: Network,
    *,
    image_size: tuple[int, int] | None,
    overrides: Mapping[str, Any],
) -> Network:
    """Returns a network without a backbone at another image size, dtype and remat.

    A network that computes in one way alone has no such field, and stays as it is.
    """
    own = {field.name: field for field in dataclasses.fields(model)}
    changes: dict[str, Any] = {
        name: jnp.dtype(value) if name == "dtype" else value
        for name, value in overrides.items()
        if name in own and is_execution(own[name])
    }
    if image_size is not None and tuple(image_size) != tuple(model.image_size):
        if "image_size" not in own:
            raise ValueError(
                f"{path} is a network for images of {tuple(model.image_size)} pixels "
                f"(height, width) alone; image_size = {tuple(image_size)} asks for others."
            )
        changes["image_size"] = tuple(image_size)
    return model.clone(**changes)


def load(
    path: epath.PathLike,
    *,
    backbone: epath.PathLike = "",
    image_size: tuple[int, int] | None = None,
    **overrides: Any,
) -> tuple[Any, dict[str, Any]]:
    """Returns a network, such as an EoMT, and its parameters, float32 NumPy arrays.

    Arguments and errors are those of `open_network`, whose notes are logged.
    """
    loaded = open_network(path, backbone=backbone, image_size=image_size, **overrides)
    for note in loaded.notes:
        logging.info("%s: %s", path, note)
    return loaded.model, loaded.params


def load_backbone(
    path: epath.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    patch_size: int = 16,
    **overrides: Any,
) -> tuple[ViT, dict[str, Any]]:
    """Returns a pre-trained ViT and its parameters, at any patch and image size.

    The patch kernel and the position embedding are resampled if the checkpoint's sizes
    differ, and otherwise don't change.

    Args:
      path: DINOv2 as torch.hub's .pth, with timm's names, or as a Hugging Face file or
        folder; DINOv3 as a Hugging Face file or folder; or anything that `open_network`
        takes except for differences, whose backbone is then taken. It may be in a
        bucket, or a name on the Hugging Face hub.
      image_size: (height, width) in pixels, multiples of `patch_size`; None takes the
        checkpoint's patch grid.
      patch_size: side of a patch in pixels.
      **overrides: fields of ViT. num_heads (by default the config's, or that of DINO's
        of this width), layer_norm_eps, rope_theta, dtype and remat are free; others
        must agree with the weights.

    Returns:
      The model and its parameters, float32 NumPy arrays, some of them views in another
      order of axes.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: the file is damaged, not of this architecture, or an override
        contradicts it.
    """
    check_image_size(image_size)
    stored = _read_checked_backbone(path, {**overrides, "image_size": image_size})
    for note in stored.notes:
        logging.info("%s: %s", path, note)
    return _refit(
        path,
        stored,
        image_size=image_size,
        patch_size=patch_size,
        overrides=overrides,
    )


def read_backbone(
    path: epath.PathLike, **options: Any
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Returns a backbone's fields, its parameters at the stored sizes, and notes.

    Args:
      path: see `load_backbone`.
      **options: num_heads, layer_norm_eps, rope_theta, for checkpoints without them.

    Raises:
      The errors of `load_backbone`.
    """
    stored = _read_checked_backbone(path, options)
    return stored.vit_fields, stored.vit_params, stored.notes


def _read_checked_backbone(path: epath.PathLike, options: dict[str, Any]) -> Stored:
    stored = read_stored_backbone(path, options)
    if not stored.checked:
        check_parameters(path, build_network(path, stored), stored.params)
    return stored


def _refit(
    path: epath.PathLike,
    stored: Stored,
    *,
    image_size: tuple[int, int] | None,
    patch_size: int,
    overrides: dict[str, Any],
) -> tuple[ViT, dict[str, Any]]:
    """Returns the stored ViT with overrides, and its parameters at the wanted size."""
    fields = stored.vit_fields
    _check_settled(path, fields, overrides)
    if image_size is None:
        rows, columns = (side // fields["patch_size"] for side in fields["image_size"])
        image_size = (rows * patch_size, columns * patch_size)
    height, width = image_size
    if height < 1 or width < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"image_size {tuple(image_size)} is not a positive multiple of patch_size "
            f"{patch_size}."
        )
    sizes = {"image_size": (height, width), "patch_size": patch_size}
    vit = build_vit(path, {**fields, **overrides, **sizes})
    params = resample_vit(
        stored.vit_params, grid_size=vit.grid_size, patch_size=patch_size
    )
    return vit, params


def _check_settled(
    path: epath.PathLike, fields: dict[str, Any], overrides: dict[str, Any]
) -> None:
    """Raises ValueError for overrides that are unknown or contradict the parameters."""
    for name, value in overrides.items():
        if name in FREE_FIELDS:
            continue
        if name not in fields:
            known = sorted({*FREE_FIELDS, *fields} - {"image_size", "patch_size"})
            raise ValueError(f"Unknown override {name}; there are {', '.join(known)}.")
        if fields[name] != value:
            raise ValueError(
                f"{path} has {name} = {shown(fields[name])}, which its parameters settle; "
                f"the override asks for {shown(value)}."
            )


def check_image_size(image_size: Any) -> None:
    """Raises ValueError unless this is (height, width) or None."""
    sides = image_size if isinstance(image_size, tuple | list) else ()
    good = len(sides) == 2 and all(isinstance(side, numbers.Integral) for side in sides)
    if image_size is not None and not good:
        raise ValueError(
            f"image_size = {image_size!r}; wanted (height, width), two whole numbers "
            "of pixels."
        )
