"""Opens the decoders of transformers' Mask2Former for a network around a ViT."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import traverse_util

from eomt_jax.models.mask2former.network import Mask2Former
from eomt_jax.models.network import Network
from eomt_jax.trees import from_variables, leaves_by_path
from eomt_jax.weights.classes import find_dataset_info
from eomt_jax.weights.foreign.mask2former import read_decoders
from eomt_jax.weights.formats import hub
from eomt_jax.weights.formats.files import open_checkpoint
from eomt_jax.weights.load import Loaded
from eomt_jax.weights.wording import listed, shown

SCOPES = ("pixel_decoder", "decoder")

# Layers that see the maps of the backbone, and rows for levels.
_INPUTS = r"(decoder|pixel_decoder)/(projection_\d+|lateral)/|decoder/level_embedding"


def open_decoder(path: epath.PathLike, model: Network) -> Loaded:
    """Opens pixel decoder, transformer decoder and class head for a network.

    Layers that see the backbone's maps are left out where the network's backbone is of
    another width, and the pixel decoder where the network has none; a note says so.

    Args:
      path: a folder or file of transformers' Mask2Former, with any backbone; if there
        is nothing at the path, a name on the Hugging Face hub.
      model: the network that will have them, with its own numbers of classes and
        queries.

    Returns:
      `model` with the stored numbers of classes and queries, and its parameters below
      SCOPES that are stored.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: the checkpoint is damaged, is no Mask2Former, or has other layers than
        the network.
    """
    if not isinstance(model, Mask2Former):
        raise ValueError(  # noqa: TRY004
            f"{path}: the decoders of a Mask2Former are for a network of that kind; this "
            f"one is of the kind {type(model).__name__}."
        )
    with open_checkpoint(hub.resolve(path)) as checkpoint:
        stored = read_decoders(checkpoint)
    if stored.num_heads not in (None, model.num_heads):
        raise ValueError(
            f"{path}: config.json says num_attention_heads = {shown(stored.num_heads)}; "
            f"the network has {model.num_heads}."
        )
    model = model.clone(num_classes=stored.num_classes, num_queries=stored.num_queries)
    params, notes = _fitting(path, model, stored.params)
    info, on_classes = find_dataset_info(
        str(path), stored.num_classes, config=checkpoint.config, processor={}
    )
    notes = (*checkpoint.notes, *notes, *on_classes)
    return Loaded(model, params, info, notes)


def _fitting(
    path: epath.PathLike, model: Mask2Former, params: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Returns the stored parameters that the network has, and notes on the others."""
    images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.uint8)
    tree = from_variables(jax.eval_shape(model.init, jax.random.key(0), images))
    notes = []
    for scope in SCOPES:
        if scope not in tree:
            params = {name: params[name] for name in SCOPES if name != scope}
            notes.append(f"{scope}: left out, since the network has none")
    given: dict[str, np.ndarray] = leaves_by_path(params)
    shapes = _shapes(given)
    wanted = _shapes(leaves_by_path({name: tree[name] for name in params}))
    differing = {leaf for leaf, _ in shapes.items() ^ wanted.items()}
    other = sorted(leaf for leaf in differing if not re.match(_INPUTS, leaf))
    if other:
        raise ValueError(
            f"{path}: its decoders have {len(other)} parameters of other names or shapes "
            f"than the network's: {listed(other[:8])}. The network has "
            f"{model.num_layers} layers, as config.model.num_masked_layers says."
        )
    layers = {re.sub(r"/(kernel|bias)$", "", leaf) for leaf in differing}
    if layers:
        notes.append(f"new, since the backbone's maps differ: {listed(sorted(layers))}")
    kept = {
        leaf: value
        for leaf, value in given.items()
        if re.sub(r"/(kernel|bias)$", "", leaf) not in layers
    }
    return traverse_util.unflatten_dict(kept, sep="/"), notes


def _shapes(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}
