"""Reads DINOv2 and DINOv3 backbones, in several libraries' namings, as our ViT.

The names are in name_maps.
"""

from typing import Any

from eomt_jax.weights.foreign.architecture import detect_naming, infer_architecture
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.foreign.name_maps import BACKBONES, Naming
from eomt_jax.weights.foreign.parameters import read_params
from eomt_jax.weights.formats.files import Checkpoint
from eomt_jax.weights.wording import listed, shown


def is_backbone(checkpoint: Checkpoint) -> bool:
    """Returns whether the tensors have the names of a DINO in some library."""
    return detect_naming(checkpoint, BACKBONES) is not None


def read_vit(
    checkpoint: Checkpoint, **options: Any
) -> tuple[Architecture, dict[str, Any]]:
    """Returns a ViT's architecture and float32 parameters at the stored sizes.

    Args:
      checkpoint: the opened file or folder.
      **options: see `infer_architecture`.

    Raises:
      ValueError: another architecture, tensors missing, unknown, misshapen or not
        finite.
    """
    naming = _naming(checkpoint)
    architecture, table = infer_architecture(checkpoint, naming, **options)
    return architecture, read_params(checkpoint, naming, table, architecture)


def _naming(checkpoint: Checkpoint) -> Naming:
    naming = detect_naming(checkpoint, BACKBONES)
    if naming:
        return naming
    model_type = checkpoint.config.get("model_type")
    says = f", whose config.json says {shown(model_type)}," if model_type else ""
    raise ValueError(
        f"{checkpoint.path}{says} is no backbone that can be read: wanted DINOv2 as "
        "torch.hub or timm names it (blocks.0.…), or DINOv2 or DINOv3 as Hugging Face "
        f"does (encoder.layer.0.…, layer.0.…), found "
        f"{listed(sorted(checkpoint.shapes)[:8])}."
    )
