"""Registers networks by the names that recipes have for them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from eomt_jax.models import variants
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.mask2former.network import FEATURES, Mask2Former
from eomt_jax.models.network import Network
from eomt_jax.options import Choice, Flag, Name, Whole, option


@dataclasses.dataclass(frozen=True)
class NetworkKind:
    """A kind of network.

    Attributes:
      network: its class, whose name model.json holds.
      create: function that makes one from the fields of config.model without its name,
        and num_classes and image_size = (height, width).
    """

    network: type[Network]
    create: Callable[..., Network]


_KINDS: dict[str, NetworkKind] = {}


def register(name: str, network: type[Network], create: Callable[..., Network]) -> None:
    """Adds a kind of network, so that `config.model.name = name` builds it.

    Raises:
      ValueError: the name or the class's name is taken.
    """
    if name in _KINDS or network.__name__ in class_names():
        raise ValueError(
            f"there already is a network {name!r} or a class {network.__name__}; give "
            "another name"
        )
    _KINDS[name] = NetworkKind(network, create)


def names() -> tuple[str, ...]:
    """Returns the names of all networks."""
    return tuple(_KINDS)


def class_names() -> tuple[str, ...]:
    """Returns the names of all networks' classes, which model.json holds."""
    return tuple(kind.network.__name__ for kind in _KINDS.values())


def network_class(name: Any) -> type[Network] | None:
    """Returns the network's class of that name; None if there is none."""
    classes = (kind.network for kind in _KINDS.values())
    return next((c for c in classes if c.__name__ == name), None)


def create_network(name: str, **fields: Any) -> Network:
    """Creates a network.

    Args:
      name: the registered name.
      **fields: see NetworkKind; and inference, see ModelOptions.

    Raises:
      ValueError: there is no such network, or it has no such field.
    """
    if name not in _KINDS:
        raise ValueError(f"config.model.name = {name!r}: there are {', '.join(_KINDS)}")
    masked = fields.pop("inference", "") == "masked"
    return _KINDS[name].create(**fields).with_masked_inference(masked)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The network of a run, apart from what its dataset and weights decide."""

    name: str = option("eomt", Name(names), "The network is of this kind.")
    variant: str = option(
        "large", Name(lambda: variants.VARIANTS), "The ViT has this size."
    )
    patch_size: int = option(
        16, Whole(1, 256), "A patch is a square of this side in pixels."
    )
    num_queries: int = option(
        200, Whole(1, 65_536), "This many segments of an image can be predicted."
    )
    num_masked_layers: int = option(
        0,
        Whole(0, 1000),
        "This many layers have masked attention: in an EoMT the blocks that see the "
        "queries, in a Mask2Former its decoder's layers; 0 takes the number of the "
        "checkpoint, or else the published one.",
    )
    features: str = option(
        "",
        Choice(("", *FEATURES)),
        "A Mask2Former's decoder sees these maps: a ViT-Adapter's (adapter) or the "
        "ViT's tokens at four scales (pyramid), both through a pixel decoder; the four "
        'scales without it (pyramid_only); or one scale (single_scale). "" takes the '
        "checkpoint's, or else adapter; an EoMT has none.",
    )
    inference: str = option(
        "",
        Choice(("", "masked", "unmasked")),
        'Predictions are made with masked attention or without it; "" goes by the '
        "checkpoint, and otherwise makes them without.",
    )
    dtype: str = option(
        "bfloat16",
        Choice(("bfloat16", "float16", "float32")),
        "Activations have this type; parameters, norms and losses are float32 always.",
    )
    remat: bool = option(
        False,
        Flag(),
        "Blocks and predictions are computed again in the backward pass: slower, with "
        "much less memory.",
    )


def _create_eomt(*, num_masked_layers: int, features: str = "", **fields: Any) -> EoMT:
    if features:
        raise ValueError(
            f"config.model.features = {features!r}: an EoMT has no such maps; leave it "
            "empty, or set config.model.name = 'mask2former'"
        )
    return variants.create_eomt(num_query_blocks=num_masked_layers, **fields)


def _create_mask2former(
    variant: str,
    *,
    num_masked_layers: int,
    num_classes: int,
    num_queries: int,
    image_size: tuple[int, int],
    features: str = "",
    **fields: Any,
) -> Mask2Former:
    return Mask2Former(
        vit=variants.create_vit(variant, image_size=image_size, **fields),
        num_classes=num_classes,
        num_queries=num_queries,
        features=features or FEATURES[0],
        num_layers=num_masked_layers or 9,
    )


register("eomt", EoMT, _create_eomt)
register("mask2former", Mask2Former, _create_mask2former)
