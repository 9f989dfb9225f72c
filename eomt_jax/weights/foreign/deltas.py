"""Checkpoints that hold differences to a backbone, which must be added to it.

DINOv3's licence doesn't allow others to publish its weights. So the release publishes,
for its EoMT with DINOv3, the differences that training made: each tensor of the encoder
is to be added to the backbone's. The heads, which DINOv3 doesn't have, are whole. The
encoder's tensors include the constants of the pixels' normalisation, whose difference
is 0; so these tell such a file from a whole model.
"""

from typing import Any

import jax
import numpy as np
from etils import epath

from eomt_jax.weights.foreign.eomt_names import PIXEL_STD, RELEASE_DINOV3
from eomt_jax.weights.foreign.name_maps import Naming
from eomt_jax.weights.formats.files import Checkpoint
from eomt_jax.weights.wording import shown

Vit = tuple[dict[str, Any], dict[str, Any]]  # fields, parameters

PUBLISHED_BACKBONES = {
    384: "vits16",
    768: "vitb16",
    1024: "vitl16",
    1280: "vith16plus",
    4096: "vit7b16",
}
# Fields of a ViT that the parameters determine.
SETTLED = (
    "embed_dim",
    "depth",
    "mlp_dim",
    "mlp_type",
    "qkv_bias",
    "positions",
    "patch_size",
    "num_register_tokens",
)


def is_delta(checkpoint: Checkpoint, naming: Naming, wanted: bool | None) -> bool:
    """Returns whether the encoder's tensors are differences.

    Args:
      checkpoint: the opened file.
      naming: naming of its tensors.
      wanted: the caller's answer; None takes that of the file.

    Raises:
      ValueError: neither the file nor the caller gives an answer, or they disagree.
    """
    path = checkpoint.path
    if PIXEL_STD in checkpoint.shapes:
        found = not checkpoint.read(PIXEL_STD).any()
        if found and naming is not RELEASE_DINOV3:
            raise ValueError(
                f"{path}: {PIXEL_STD} is 0, as in a difference to a backbone; only "
                "those to DINOv3 are known."
            )
    elif naming is RELEASE_DINOV3:
        if wanted is None:
            raise ValueError(
                f"{path} holds a whole model or differences to its backbone: there is "
                f"no {PIXEL_STD}, which would tell. Say delta=True if the release "
                "published it, delta=False if it was trained and saved whole."
            )
        return wanted
    else:
        found = False
    if wanted not in (None, found):
        kinds = {True: "differences to a backbone", False: "a whole model"}
        raise ValueError(
            f"{path} holds {kinds[found]}; delta={wanted} says that it holds "
            f"{kinds[not found]}."
        )
    return found


def check_backbone(
    path: str, backbone: epath.PathLike, *, is_delta: bool, embed_dim: int = 0
) -> None:
    """Raises an error if a backbone is missing, or is given and not needed.

    Raises:
      ValueError: a backbone is missing or not needed.
    """
    if is_delta and not str(backbone):
        name = PUBLISHED_BACKBONES.get(embed_dim, "…")
        raise ValueError(
            f"{path} holds no whole model but its differences to a DINOv3 backbone of "
            f"width {embed_dim}. Give that one too: backbone=a path, or its name on "
            f"the Hugging Face hub (facebook/dinov3-{name}-pretrain-lvd1689m, whose "
            "licence you have to accept there)."
        )
    if str(backbone) and not is_delta:
        raise ValueError(
            f"{path} holds a whole model; the backbone {backbone} can't be added to "
            "it. Leave it out."
        )


def add_backbone(
    delta: Vit, backbone: Vit, *, path: str, backbone_path: str
) -> dict[str, Any]:
    """Returns the whole ViT's parameters, by adding differences and backbone.

    Args:
      delta, backbone: fields and parameters of each.
      path, backbone_path: path of each, for messages.

    Raises:
      ValueError: the backbone is another ViT.
    """
    (fields, params), (backbone_fields, backbone_params) = delta, backbone
    for name in SETTLED:
        if backbone_fields.get(name) != fields[name]:
            raise ValueError(
                f"{path} holds differences to a backbone with {name} = "
                f"{shown(fields[name])}; {backbone_path} has {shown(backbone_fields.get(name))}."
            )
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, backbone_params):
        raise ValueError(
            f"{backbone_path} holds other parameters than it says of itself; it is "
            "damaged."
        )
    return jax.tree.map(np.add, backbone_params, params)
