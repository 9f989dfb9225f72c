"""Builds networks of stored fields, and checks that stored parameters are theirs."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from eomt_jax.models.network import Network
from eomt_jax.models.registry import network_class
from eomt_jax.models.vit import ViT
from eomt_jax.trees import from_variables, leaves_by_path
from eomt_jax.weights.native.model_fields import build_module
from eomt_jax.weights.native.model_folder import MODEL_FILE
from eomt_jax.weights.ranges import LARGEST, check_number
from eomt_jax.weights.stored import Stored
from eomt_jax.weights.wording import listed, shown, typed_reason


def build_vit(path: epath.PathLike, fields: Mapping[str, Any]) -> ViT:
    """Returns a ViT of stored fields and overrides; ValueError names `path`."""
    for name in LARGEST.keys() & fields.keys():
        check_number(path, name, fields[name])
    try:
        dtype = jnp.dtype(fields.get("dtype", "float32"))
        image_size = tuple(fields["image_size"])
        return ViT(**{**fields, "dtype": dtype, "image_size": image_size})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: its ViT cannot be built: {error}.") from error


def build_network(path: epath.PathLike, stored: Stored) -> Any:
    """Builds the stored network or backbone."""
    vit = build_vit(path, stored.vit_fields) if stored.vit_fields else None
    kind = network_class(stored.kind)
    if kind is None:
        return vit
    backbone = {kind.backbone_name: vit} if vit else {}
    try:
        return build_module(kind, stored.fields, **backbone)
    except TypeError as error:
        what = f"{path}: its {stored.kind} cannot be built"
        raise ValueError(f"{what}: {error}.") from error


def check_parameters(
    path: epath.PathLike, model: nn.Module, params: dict[str, Any]
) -> None:
    """Raises ValueError unless the parameters are exactly those of the model."""
    vit = model.backbone if isinstance(model, Network) else model
    if isinstance(vit, ViT):
        name = model.backbone_name if isinstance(model, Network) else ""
        vit_params = params.get(name, {}) if name else params
        depth = sum(name.startswith("block_") for name in vit_params)
        if vit.depth != depth:  # also: a number that is never finished building
            raise ValueError(
                f"{path} has depth = {shown(vit.depth)} in its {MODEL_FILE} and holds "
                f"the parameters of {depth} blocks."
            )
    sized: Any = model
    try:
        images = jax.ShapeDtypeStruct((1, *sized.image_size, 3), jnp.uint8)
        wanted_tree = from_variables(
            jax.eval_shape(model.init, jax.random.key(0), images)
        )
    except Exception as error:
        raise ValueError(
            f"{path}: the network that its {MODEL_FILE} describes cannot be built "
            f"({typed_reason(error)})."
        ) from error
    wanted, found = _shapes(wanted_tree), _shapes(params)
    if wanted.keys() != found.keys():
        raise ValueError(
            f"{path} holds other parameters than its {MODEL_FILE} describes. "
            f"Missing: {listed(sorted(wanted.keys() - found.keys()))}. "
            f"Unknown: {listed(sorted(found.keys() - wanted.keys()))}."
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(
                f"{path}: {name} has shape {found[name]}; wanted {shape}, as "
                f"{MODEL_FILE} describes it."
            )


def _shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(value.shape) for path, value in leaves_by_path(tree).items()}
