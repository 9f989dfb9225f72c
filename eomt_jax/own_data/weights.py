"""Finds pre-trained weights to start from: given, on this machine, or on the hub."""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from eomt_jax.models.variants import fitting_variants
from eomt_jax.parallel.compilation_cache import DEFAULT_FOLDER
from eomt_jax.weights.foreign.backbones import is_backbone
from eomt_jax.weights.foreign.eomt import holds_differences, is_eomt
from eomt_jax.weights.foreign.prefixes import with_plain_names
from eomt_jax.weights.formats import hub
from eomt_jax.weights.formats.files import WEIGHTS, open_checkpoint
from eomt_jax.weights.native import single_file
from eomt_jax.weights.stored import (
    BackboneError,
    Stored,
    read_stored_backbone,
    read_stored_network,
)

NONE = "none"
CHECKPOINT, BACKBONE = "checkpoint", "backbone"

# These are tried on the hub, the first one that can be read is taken. The authors'
# networks are files of PyTorch.
_HUB_NAMES = {
    True: (
        "tue-mps/coco_panoptic_eomt_small_640_2x",
        "facebook/dinov2-with-registers-small",
        "facebook/dinov2-small",
    ),
    False: (
        "tue-mps/coco_panoptic_eomt_base_640_2x",
        "facebook/dinov2-with-registers-base",
        "facebook/dinov2-base",
    ),
}
_OF_TORCH = "tue-mps/"
# Sizes that are taken without being asked for, the best first.
_PREFERRED = {
    True: ("small", "dinov3_small", "tiny", "base", "dinov3_base"),
    False: ("base", "dinov3_base", "small", "dinov3_small", "large", "dinov3_large"),
}
_TORCH_ENDINGS = (".pth", ".pt", ".bin")
_MAX_BYTES = 1 << 31  # of a file; larger ones are of no size that is preferred
_NAMED_LIKE = ("dino", "eomt", "vit")  # files of PyTorch are read whole


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights to start from.

    Attributes:
      path: a file, a folder or a name on the hub; "" from scratch.
      kind: CHECKPOINT, BACKBONE, or "" from scratch.
      variant: the size of the network.
      sentence: says to the user what they are and why they were taken.
      num_queries: the checkpoint's; 0 for others.
      patch_size: the checkpoint's; 0 for others.
      class_names: the checkpoint's, if it says them.
    """

    path: str
    kind: str
    variant: str
    sentence: str
    num_queries: int = 0
    patch_size: int = 0
    class_names: tuple[str, ...] = ()


def find_weights(given: str, *, on_cpu: bool) -> Weights:
    """Returns the weights that the user gives, or else those that are found.

    Args:
      given: a file, folder or name on the hub; NONE for a start from scratch; "" looks
        into the working folder, `~/.cache/eomt_jax`, Hugging Face's cache and the hub.
      on_cpu: whether a CPU trains, for which small networks are preferred.

    Raises:
      ValueError: the weights that are given can't be read or fit no network.
    """
    if given == NONE:
        return Weights("", "", "tiny", "A small network is trained from scratch.")
    if given:
        return describe(given)
    folders = [os.curdir, os.path.expanduser(DEFAULT_FOLDER)]
    found = [w for folder in folders for w in _in_folder(folder)]
    chosen = choose(found, on_cpu=on_cpu)
    if chosen is None:
        chosen = _on_hub(on_cpu=on_cpu)
    return chosen or Weights("", "", "tiny", _nothing_found(_HUB_NAMES[on_cpu][1]))


def choose(found: Sequence[Weights], *, on_cpu: bool) -> Weights | None:
    """Returns the best weights: a whole network before a backbone, then by size."""
    sizes = _PREFERRED[on_cpu]
    usable = [weights for weights in found if weights.variant in sizes]
    return min(
        usable,
        key=lambda w: (w.kind != CHECKPOINT, sizes.index(w.variant)),
        default=None,
    )


def describe(path: epath.PathLike) -> Weights:
    """Returns what the weights at a path or of a name on the hub are.

    Raises:
      ValueError: there is nothing, nothing that can be read, or no size that fits.
    """
    try:
        stored, kind = _read(path)
    except (FileNotFoundError, ImportError) as error:
        raise ValueError(f"--weights={path}: {error}") from error
    fitting = fitting_variants(stored.vit_fields) if stored.vit_fields else []
    if not fitting:
        raise ValueError(f"--weights={path} is a network of no size that is known")
    what = "whole network" if kind == CHECKPOINT else "backbone"
    fields: dict[str, Any] = {}
    if kind == CHECKPOINT:
        fields["num_queries"] = stored.fields.get("num_queries", 0)
        fields["patch_size"] = stored.vit_fields["patch_size"]
        info = stored.dataset_info
        fields["class_names"] = tuple(c.name for c in info.classes) if info else ()
    sentence = f"It starts from {path}: a {what} of the size {fitting[0]}."
    return Weights(str(path), kind, fitting[0], sentence, **fields)


def _read(path: epath.PathLike) -> tuple[Stored, str]:
    try:
        stored = read_stored_network(
            path, backbone="", image_size=None, delta=None, options={}
        )
        return stored, CHECKPOINT
    except BackboneError:
        return read_stored_backbone(path, {}), BACKBONE


def _in_folder(folder: str) -> Iterator[Weights]:
    """Yields the weights among a folder's files; others are passed over."""
    if not os.path.isdir(folder):
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name) if folder != os.curdir else name
        # A file that isn't ours to read is none of the user's weights.
        with contextlib.suppress(ValueError, OSError, ImportError):
            if os.path.isfile(path) and _may_be_weights(path):
                yield describe(path)


def _may_be_weights(path: str) -> bool:
    name = os.path.basename(path).lower()
    if os.path.getsize(path) > _MAX_BYTES:
        return False
    if name.endswith(_TORCH_ENDINGS):
        has_torch = importlib.util.find_spec("torch") is not None
        return has_torch and any(part in name for part in _NAMED_LIKE)
    if not name.endswith(".safetensors"):
        return False
    with open_checkpoint(path) as checkpoint:
        if single_file.text_of(checkpoint) is not None:
            return True
        checkpoint = with_plain_names(checkpoint)
        if is_eomt(checkpoint):
            return not holds_differences(checkpoint, None)
        return is_backbone(checkpoint)


def _on_hub(*, on_cpu: bool) -> Weights | None:
    """Returns weights of the Hugging Face hub, from its cache if they are there."""
    has_torch = importlib.util.find_spec("torch") is not None
    names = [
        name
        for name in _HUB_NAMES[on_cpu]
        if has_torch or not name.startswith(_OF_TORCH)
    ]
    names.sort(key=lambda name: not _is_cached(name))
    for name in names:
        try:
            hub.resolve(name)
        except ValueError as error:
            if "cannot be reached" in str(error):
                return None
            continue
        with contextlib.suppress(ValueError, OSError, ImportError):
            return describe(name)
    return None


def _is_cached(name: str) -> bool:
    import huggingface_hub  # here, because it takes a while

    return any(
        isinstance(huggingface_hub.try_to_load_from_cache(name, file), str)
        for file in WEIGHTS
    )


def _nothing_found(name: str) -> str:
    return (
        "There are no pre-trained weights: none in this folder, in ~/.cache/eomt_jax or in "
        "Hugging Face's cache, and the hub cannot be reached. So a small network is "
        "trained from scratch, which learns little from a few photographs. Better: "
        f"download https://huggingface.co/{name}/resolve/main/model.safetensors as "
        f"~/.cache/eomt_jax/{name.split('/')[1]}.safetensors, and train again with "
        "another --out."
    )
