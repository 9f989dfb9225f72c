"""Removes the prefixes that trainers put before the names of tensors.

DistributedDataParallel adds `module.`, Lightning often `model.`, a detector `backbone.`,
torch.compile `_orig_mod`. A self-distillation stores a `teacher` beside a `student`,
and other trainings an average of the weights, EMA, beside the weights.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping

from eomt_jax.weights.foreign.architecture import detect_naming
from eomt_jax.weights.foreign.eomt_names import EOMTS
from eomt_jax.weights.foreign.name_maps import BACKBONES
from eomt_jax.weights.formats.files import Checkpoint
from eomt_jax.weights.formats.torch_file import choose_copy
from eomt_jax.weights.wording import listed

COMPILED = "_orig_mod"  # what torch.compile adds to names
# Names of the heads that a self-supervised training has beside its backbone.
_HEADS = ("dino_head", "ibot_head", "dino_loss", "ibot_patch_loss", "koleo_loss")
_MAX_PREFIX = 8  # components


def with_plain_names(checkpoint: Checkpoint) -> Checkpoint:
    """Returns the checkpoint with the names that a library gives the network itself.

    Names that stay unknown don't change, so that messages show them. If there are
    several copies of a network, an average of the weights is taken, and a note says so.

    Raises:
      ValueError: two tensors would have one name.
    """
    checkpoint = _renamed(checkpoint, _without_wrappers(checkpoint))
    names = list(checkpoint.shapes)
    if _is_known(checkpoint, {name: name for name in names}):
        return checkpoint
    shared = ""
    for _ in range(_MAX_PREFIX):
        groups = _groups(names, shared)
        if len(groups) > 1:
            return _one_of(checkpoint, groups, shared)
        if not groups:
            break
        shared += f"{next(iter(groups))}."
        plain = {name[len(shared) :]: name for name in names}
        if _is_known(checkpoint, plain):
            return _renamed(checkpoint, plain)
    return checkpoint


def _one_of(
    checkpoint: Checkpoint, groups: Mapping[str, list[str]], shared: str
) -> Checkpoint:
    """Returns the checkpoint with the tensors of one copy of a network alone."""
    copies = {}
    for key, names in groups.items():
        prefix = f"{shared}{key}."
        plain = {name[len(prefix) :]: name for name in names}
        if key in _HEADS or not all(plain):
            continue
        part = with_plain_names(_renamed(checkpoint, plain))
        if _is_known(part, {name: name for name in part.shapes}):
            copies[key] = part
    left = [key for key in groups if key not in copies and key not in _HEADS]
    if not copies or left:
        return checkpoint
    key = choose_copy(copies, checkpoint.path)
    note = _describe_choice(key, groups)
    return dataclasses.replace(
        copies[key], notes=(*checkpoint.notes, note, *copies[key].notes)
    )


def _describe_choice(key: str, keys: Collection[str]) -> str:
    others = sorted(other for other in keys if other != key)
    return f"The tensors of {key} are taken, and not those of {listed(others)}."


def _groups(names: Collection[str], shared: str) -> dict[str, list[str]]:
    """Groups names by their component after `shared`; empty if a name has none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        key, dot, _ = name[len(shared) :].partition(".")
        if not dot:
            return {}
        groups.setdefault(key, []).append(name)
    return groups


def _is_known(checkpoint: Checkpoint, plain: Mapping[str, str]) -> bool:
    # This is quick to test, while trying a naming takes a while.
    if not any(re.search(r"(^|\.)\d+\.", name) for name in plain):
        return False
    renamed = _renamed(checkpoint, plain)
    return detect_naming(renamed, (*EOMTS, *BACKBONES)) is not None


def _renamed(checkpoint: Checkpoint, plain: Mapping[str, str]) -> Checkpoint:
    """Returns the checkpoint with other names; `plain` maps the new to the old ones."""
    return dataclasses.replace(
        checkpoint,
        shapes={name: checkpoint.shapes[old] for name, old in plain.items()},
        load=lambda name: checkpoint.load(plain[name]),
    )


def _without_wrappers(checkpoint: Checkpoint) -> dict[str, str]:
    """Maps names without torch.compile's and DINOv2's additions to the present names.

    DINOv2 may store its blocks in chunks.
    """
    original: dict[str, str] = {}
    for name in checkpoint.shapes:
        plain = ".".join(part for part in name.split(".") if part != COMPILED)
        # Blocks in a chunk have the numbers that they have in the whole network.
        plain = re.sub(r"(^|\.)blocks\.\d+\.(\d+\.)", r"\1blocks.\2", plain)
        if plain in original:
            raise ValueError(
                f"{checkpoint.path} holds both {original[plain]} and {name}, which are "
                "one tensor of a compiled network, or of one in chunks."
            )
        original[plain] = name
    return original
