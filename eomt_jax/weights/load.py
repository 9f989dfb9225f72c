"""From a path to a model that is ready to apply."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.weights import native
from eomt_jax.weights.dinov2 import read_dinov2
from eomt_jax.weights.files import open_checkpoint
from eomt_jax.weights.resample import resample_vit

# Fields that change neither the parameters nor their shapes.
FREE_FIELDS = ("layer_norm_eps", "dtype", "remat")


def load(
    path: epath.PathLike, *, image_size: tuple[int, int] | None = None, **overrides: Any
) -> tuple[EoMT, dict[str, Any]]:
    """An EoMT and its parameters from a checkpoint folder of ours.

    Args:
      path: a training's work directory, a folder that `native.save` wrote, or one step
        (…/checkpoints/1000); of several steps the newest complete one is read. May be
        a bucket.
      image_size: (height, width) in pixels; another one than the checkpoint's
        resamples the position embedding.
      **overrides: fields of the model, as dtype="bfloat16" or remat=True. A field that
        the parameters settle must agree with them.

    Returns:
      The model and its parameters, float32 NumPy arrays.

    Raises:
      ValueError: it is no such folder, it is damaged, or an override contradicts it.
    """
    if not native.is_native(path):
        raise ValueError(
            f"{path} is no checkpoint folder of eomt_jax (there is no "
            f"{native.MODEL_FILE} in it). Released EoMT weights (pytorch_model.bin, "
            "Hugging Face folders) cannot be opened yet; a DINOv2 backbone is opened "
            "by eomt_jax.load_backbone."
        )
    config = native.read_model_config(path)
    if config.kind != "EoMT":
        raise ValueError(
            f"{path} holds a {config.kind}, not an EoMT; open it with "
            "eomt_jax.load_backbone."
        )
    params = native.read_params(path)
    fields = dict(config.fields)
    vit_fields = fields.pop("vit", {})
    own = {k: overrides.pop(k) for k in list(overrides) if k in fields}
    _check_settled(path, fields, own)
    stored = _build_eomt(path, vit_fields, fields)
    _check_tree(path, stored, params)
    vit, vit_params = _refit(
        path,
        vit_fields,
        params["vit"],
        image_size=image_size,
        patch_size=vit_fields["patch_size"],
        overrides=overrides,
    )
    return stored.clone(vit=vit), {**params, "vit": vit_params}


def load_backbone(
    path: epath.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    patch_size: int = 16,
    **overrides: Any,
) -> tuple[ViT, dict[str, Any]]:
    """A pre-trained ViT and its parameters, at any patch and image size.

    The patch kernel and the position embedding are resampled where the checkpoint's
    sizes differ, and stay as they are, bit for bit, where they don't.

    Args:
      path: DINOv2 as torch.hub's .pth, with timm's names, or as a Hugging Face file or
        folder; or a checkpoint folder of ours, whose backbone is then taken. May be a
        bucket.
      image_size: (height, width) in pixels, multiples of `patch_size`; the
        checkpoint's patch grid if None.
      patch_size: in pixels.
      **overrides: fields of ViT. num_heads (else the config's, else embed_dim / 64),
        layer_norm_eps, dtype and remat are free; others must agree with the weights.

    Returns:
      The model and its parameters, float32 NumPy arrays.

    Raises:
      ValueError: the file is damaged, not of this architecture, or an override
        contradicts it.
    """
    vit_fields, params = read_backbone(
        path,
        num_heads=overrides.get("num_heads"),
        layer_norm_eps=overrides.get("layer_norm_eps"),
    )
    return _refit(
        path,
        vit_fields,
        params,
        image_size=image_size,
        patch_size=patch_size,
        overrides=overrides,
    )


def read_backbone(
    path: epath.PathLike,
    *,
    num_heads: int | None = None,
    layer_norm_eps: float | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A backbone's fields and parameters at the sizes that are stored.

    Args and errors as in `load_backbone`.
    """
    if not native.is_native(path):
        with open_checkpoint(path) as checkpoint:
            architecture, params = read_dinov2(
                checkpoint, num_heads=num_heads, layer_norm_eps=layer_norm_eps
            )
        return architecture.vit_fields(), params
    config = native.read_model_config(path)
    params = native.read_params(path)
    if config.kind == "ViT":
        _check_tree(path, _build_vit(path, config.fields), params)
        return config.fields, params
    fields = dict(config.fields)
    vit_fields = fields.pop("vit", {})
    _check_tree(path, _build_eomt(path, vit_fields, fields), params)
    return vit_fields, params["vit"]


def _refit(
    path: epath.PathLike,
    fields: dict[str, Any],
    params: dict[str, Any],
    *,
    image_size: tuple[int, int] | None,
    patch_size: int,
    overrides: dict[str, Any],
) -> tuple[ViT, dict[str, Any]]:
    """The ViT of `fields` with overrides, and its parameters at the wanted size."""
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
    vit = _build_vit(path, {**fields, **overrides, **sizes})
    params = resample_vit(params, grid_size=vit.grid_size, patch_size=patch_size)
    return vit, params


def _build_vit(path: epath.PathLike, fields: dict[str, Any]) -> ViT:
    try:
        dtype = jnp.dtype(fields.get("dtype", "float32"))
        image_size = tuple(fields["image_size"])
        return ViT(**{**fields, "dtype": dtype, "image_size": image_size})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: its ViT cannot be built: {error}.") from error


def _build_eomt(
    path: epath.PathLike, vit_fields: dict[str, Any], fields: dict[str, Any]
) -> EoMT:
    vit = _build_vit(path, vit_fields)
    try:
        return EoMT(vit=vit, **fields)
    except TypeError as error:
        raise ValueError(f"{path}: its EoMT cannot be built: {error}.") from error


def _check_settled(
    path: epath.PathLike, fields: dict[str, Any], overrides: dict[str, Any]
) -> None:
    """Overrides must be known, and agree with what the parameters settle."""
    for name, value in overrides.items():
        if name in FREE_FIELDS:
            continue
        if name not in fields:
            known = sorted({*FREE_FIELDS, *fields} - {"image_size", "patch_size"})
            raise ValueError(f"Unknown override {name}; there are {', '.join(known)}.")
        if fields[name] != value:
            raise ValueError(
                f"{path} has {name} = {fields[name]!r}, which its parameters settle; "
                f"the override asks for {value!r}."
            )


def _check_tree(path: epath.PathLike, model: nn.Module, params: dict[str, Any]) -> None:
    """The parameters read must be those of the model, no more, no less."""
    vit = model.vit if isinstance(model, EoMT) else model
    assert isinstance(vit, ViT)
    images = jax.ShapeDtypeStruct((1, *vit.image_size, 3), jnp.uint8)
    wanted_tree = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    wanted, found = _shapes(wanted_tree), _shapes(params)
    if wanted.keys() != found.keys():
        raise ValueError(
            f"{path} holds other parameters than its {native.MODEL_FILE} describes. "
            f"Missing: {', '.join(sorted(wanted.keys() - found.keys())) or 'none'}. "
            f"Unknown: {', '.join(sorted(found.keys() - wanted.keys())) or 'none'}."
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(
                f"{path}: {name} has shape {found[name]}; wanted {shape}, as "
                f"{native.MODEL_FILE} describes it."
            )


def _shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(value.shape)
        for path, value in jax.tree.leaves_with_path(tree)
    }
