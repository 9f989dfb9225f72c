"""Reads EoMT checkpoints of the release and of transformers as our parameters."""

import dataclasses
from typing import Any

from etils import epath

from eomt_jax.weights.foreign import deltas
from eomt_jax.weights.foreign.architecture import detect_naming, infer_architecture
from eomt_jax.weights.foreign.eomt_names import EOMTS
from eomt_jax.weights.foreign.layouts import Architecture
from eomt_jax.weights.foreign.name_maps import Naming
from eomt_jax.weights.foreign.parameters import read_params
from eomt_jax.weights.formats.files import Checkpoint
from eomt_jax.weights.wording import listed, shown


@dataclasses.dataclass(frozen=True)
class StoredEomt:
    """An EoMT from a checkpoint of another library, at its stored sizes.

    Attributes:
      architecture: architecture of the network.
      num_query_blocks: number of blocks with queries; None if it isn't stored.
      params: float32 parameters.
      is_delta: whether the ViT's parameters are differences to a backbone.
      mask_probs: probabilities of masked attention in the blocks with queries; empty if
        they aren't stored.
    """

    architecture: Architecture
    num_query_blocks: int | None
    params: dict[str, Any]
    is_delta: bool
    mask_probs: tuple[float, ...]


def is_eomt(checkpoint: Checkpoint) -> bool:
    """Returns whether the tensors have the release's or transformers' EoMT names."""
    return detect_naming(checkpoint, EOMTS) is not None


def holds_differences(checkpoint: Checkpoint, delta: bool | None) -> bool:
    """Returns whether these are an EoMT's differences to a backbone.

    See `read_eomt` for `delta`.
    """
    naming = detect_naming(checkpoint, EOMTS)
    return naming is not None and deltas.is_delta(checkpoint, naming, delta)


def read_eomt(
    checkpoint: Checkpoint,
    *,
    delta: bool | None = None,
    backbone: epath.PathLike = "",
    **options: Any,
) -> StoredEomt:
    """Reads an EoMT of the release or of transformers.

    Args:
      checkpoint: the opened file or folder.
      delta: whether the file holds differences to a backbone; None if the file itself
        says so.
      backbone: path of the backbone for the differences; it isn't read here.
      **options: see `infer_architecture`.

    Raises:
      ValueError: another architecture, tensors missing, unknown, misshapen or not
        finite, or `delta` or `backbone` is missing or not needed.
    """
    naming = detect_naming(checkpoint, EOMTS)
    if naming is None:
        raise ValueError(
            f"{checkpoint.path} is no EoMT that can be read: wanted the names of the "
            "release (network.encoder.backbone.…) or of transformers (layers.0.…, "
            f"query.weight), found {listed(sorted(checkpoint.shapes)[:8])}."
        )
    is_delta = deltas.is_delta(checkpoint, naming, delta)
    architecture, table = infer_architecture(checkpoint, naming, **options)
    deltas.check_backbone(
        checkpoint.path,
        backbone,
        is_delta=is_delta,
        embed_dim=architecture.embed_dim,
    )
    mask_probs = _mask_probs(checkpoint, naming)
    return StoredEomt(
        architecture=architecture,
        num_query_blocks=_num_query_blocks(checkpoint, naming, mask_probs),
        params=read_params(checkpoint, naming, table, architecture),
        is_delta=is_delta,
        mask_probs=mask_probs,
    )


def _mask_probs(checkpoint: Checkpoint, naming: Naming) -> tuple[float, ...]:
    if naming.mask_probs not in checkpoint.shapes:
        return ()
    return tuple(checkpoint.read(naming.mask_probs).ravel().tolist())


def _num_query_blocks(
    checkpoint: Checkpoint, naming: Naming, mask_probs: tuple[float, ...]
) -> int | None:
    """Returns the number by the buffer with an entry for each, or by config.json."""
    configured = checkpoint.config.get("num_blocks")
    found = len(mask_probs) or configured
    if configured not in (None, found):
        raise ValueError(
            f"{checkpoint.path}: config.json says num_blocks = {shown(configured)}, "
            f"{naming.mask_probs} has {found} entries, one for each block with queries."
        )
    if found is not None and not (type(found) is int and found > 0):
        raise ValueError(
            f"{checkpoint.path}: config.json says num_blocks = {shown(found)}; wanted a "
            "positive number."
        )
    return found
