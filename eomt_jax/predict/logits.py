"""Runs a network on prepared images, for its last prediction or for all of them.

Legend: B batch, H W the network's input, Q queries, K classes, h4 w4 the mask logits'
size, h w patch grid.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.models.network import Network
from eomt_jax.parallel.partition import apply_sharded
from eomt_jax.parallel.platform import Platform, current_platform, platform_of
from eomt_jax.types import Array


def last_logits(
    model: Network,
    params: Any,
    images: UInt8[Array, "B H W 3"],
    *,
    mesh: Mesh | None = None,
    cropped: bool = False,
    factored: bool = False,
) -> tuple[Float[Array, "B Q h4 w4"] | MaskFactors, Float[Array, "B Q K1"]]:
    """Returns the network's last prediction, as in inference.

    On a single CPU one image goes after the other: the caches hold the activations of
    one, and a batch is no faster anywhere else in it.

    Args:
      model: the network.
      params: the model's.
      images: of the model's size.
      mesh: where params live; None: in one place.
      cropped: whether images may be the top left part of images of the model's size.
      factored: whether the mask logits may be MaskFactors, of which post-processing
        computes those that it looks at. They are on a single CPU.
    """

    def predict(images: Array) -> Any:
        outputs = _apply(
            model, params, images, mesh=mesh, cropped=cropped, factored=factored
        )
        return outputs.mask_logits[-1], outputs.class_logits[-1]

    if not is_one_cpu(mesh):
        return predict(images)
    logits = jax.lax.map(lambda image: predict(image[None]), images)
    return jax.tree.map(lambda x: x.squeeze(1), logits)


class Predictions(NamedTuple):
    """Holds all predictions for one image.

    Attributes:
      logits: mask and class logits, first to last.
      attention: how much each query attends to the patches in each masked layer,
        averaged over the heads; empty if the network doesn't say.
    """

    logits: list[tuple[Float[Array, "Q h4 w4"] | MaskFactors, Float[Array, "Q K1"]]]
    attention: Sequence[Float[Array, "Q h w"]]


def all_predictions(
    model: Network, params: Any, image: UInt8[Array, "H W 3"], *, factored: bool = False
) -> Predictions:
    """Returns all predictions for one image; the last is that of inference.

    Args:
      model: the network.
      params: the model's, in one place.
      image: of the model's size, or the top left part of such an image.
      factored: see `last_logits`; only the last mask logits may be MaskFactors.
    """
    is_masked = getattr(model, "masked_inference", False)
    outputs, collected = _apply(
        model,
        params,
        image[None],
        mesh=None,
        cropped=True,
        factored=factored,
        mask_probs=jnp.full(model.num_masked_layers, float(is_masked)),
        # At a probability of 0 or 1 nothing depends on what is drawn.
        rngs={"mask": jax.random.key(0)},
        mutable=["intermediates"],
    )
    height, width, _ = image.shape
    maps = model.attention_maps(collected.get("intermediates", {}), (height, width))
    logits = list(zip(outputs.mask_logits, outputs.class_logits, strict=True))
    return jax.tree.map(lambda x: x[0], Predictions(logits, maps))


def _apply(
    model: Network,
    params: Any,
    images: UInt8[Array, "B H W 3"],
    *,
    mesh: Mesh | None,
    cropped: bool,
    factored: bool,
    **options: Any,
) -> Any:
    """Calls the network with those of the options that it takes."""
    if cropped and model.crop_step:
        options["cropped"] = True
    if is_one_cpu(mesh) and model.has_mask_factors:
        options["factored"] = factored
    return apply_sharded(
        model, params, images, mesh=mesh, rules=model.partition_rules(), **options
    )


def is_one_cpu(mesh: Mesh | None) -> bool:
    """Returns whether one image goes after the other, on one device that is a CPU."""
    platform = current_platform() if mesh is None else platform_of(mesh.devices.flat)
    return platform == Platform("cpu")
