"""eomt-convert writes supported weights as our folder or file, or for transformers."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from eomt_jax.cli.checkpoint_arguments import (
    add_checkpoint_arguments,
    open_checkpoint,
    overrides,
)
from eomt_jax.cli.push import (
    add_push_arguments,
    check_push,
    describing_files,
    weight_files,
)
from eomt_jax.cli.standard_output import accept_any_name
from eomt_jax.models.network import Network
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.foreign import huggingface
from eomt_jax.weights.formats import hub_upload
from eomt_jax.weights.load import load_backbone
from eomt_jax.weights.native import model_folder
from eomt_jax.weights.new_folder import check_new, new_folder
from eomt_jax.weights.stored import BackboneError

FORMATS = ("eomt_jax", "safetensors", "huggingface")


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts, and prints the network's sizes; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="eomt-convert",
        description="Writes an EoMT or a backbone (DINOv2, DINOv3) in another form: for "
        "eomt_jax as a checkpoint folder or one .safetensors file, or for transformers "
        "as a Hugging Face folder.",
    )
    add_checkpoint_arguments(
        parser, noun="an EoMT or a backbone, of ours, the release or Hugging Face"
    )
    parser.add_argument(
        "out",
        nargs="?",
        help="new folder or file to write, may be in a bucket; can be left out with "
        "--push_to",
    )
    parser.add_argument(
        "--to",
        choices=FORMATS,
        help="form to write; default: safetensors if OUT ends so, else eomt_jax",
    )
    parser.add_argument(
        "--patch_size",
        type=int,
        help="patch size to which a backbone is resampled, in pixels; default: 16",
    )
    add_push_arguments(parser)
    options = parser.parse_args(arguments)
    accept_any_name()
    if not options.out and not options.push_to:
        parser.error("OUT is missing, the folder or file to write")
    if options.to is None:
        one_file = options.push_to or options.out.endswith(".safetensors")
        options.to = "safetensors" if one_file else "eomt_jax"
    try:
        with contextlib.ExitStack() as stack:
            check_push(options)
            if not options.out:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                options.out = f"{folder}/model.safetensors"
            source = _open(options)
            description = _describe(source)
            files, address = {}, ""
            if options.push_to:
                files = describing_files(options, source, description)
                # The name is known to be free before writing takes long.
                hub_upload.create(options.push_to, private=options.private)
            _write(options, source)
            if options.push_to:
                files |= weight_files(options.out)
                address = hub_upload.upload(options.push_to, files)
    except (ValueError, ImportError, OSError) as error:
        print(f"eomt-convert: {error}", file=sys.stderr)
        return 1
    for note in source.notes:
        print(f"note: {note}")
    print(f"{address or options.out}: {description}")
    if address:
        print(f"Uploaded: {', '.join(sorted(files))}")
    return 0


class _Source(NamedTuple):
    """The network that is converted; the classes of a backbone are None."""

    model: Any
    params: dict[str, Any]
    dataset_info: DatasetInfo | None
    notes: Sequence[str]


def _open(options: argparse.Namespace) -> _Source:
    check_new(options.out)
    try:
        loaded = open_checkpoint(options)
    except BackboneError:
        for flag in ("backbone", "dataset"):
            if getattr(options, flag):
                raise ValueError(
                    f"{options.checkpoint} is a backbone alone, for which --{flag} has "
                    "no meaning."
                ) from None
        if options.to == "huggingface":
            raise ValueError(
                f"{options.checkpoint} is a backbone alone; an EoMT can go to Hugging "
                "Face, a backbone is there already."
            ) from None
        vit, params = load_backbone(
            options.checkpoint,
            patch_size=options.patch_size or 16,
            **overrides(options),
        )
        return _Source(vit, params, None, ())
    model, patch_size = loaded.model, options.patch_size
    vit = model.backbone
    if patch_size is not None and (vit is None or patch_size != vit.patch_size):
        patches = f" with patches of {vit.patch_size} pixels" if vit else ""
        raise ValueError(
            f"{options.checkpoint} is a whole {type(model).__name__}{patches}; only a "
            "backbone's are resampled to another --patch_size."
        )
    return _Source(model, loaded.params, loaded.dataset_info, loaded.notes)


def _write(options: argparse.Namespace, source: _Source) -> None:
    model, params, info, _ = source
    if options.to == "safetensors":
        model_folder.save_file(options.out, model, params, dataset_info=info)
    elif options.to == "huggingface":
        huggingface.save(options.out, model, params, dataset_info=info)
    else:
        with new_folder(options.out) as unfinished:
            model_folder.save(unfinished, model, params, dataset_info=info)


def _describe(source: _Source) -> str:
    model, info = source.model, source.dataset_info
    is_network = isinstance(model, Network)
    vit = model.backbone if is_network else model
    text, patches = type(model).__name__, ""
    if vit is not None:
        text += f" of width {vit.embed_dim}, {vit.depth} blocks, "
        text += f"{vit.num_register_tokens} register tokens"
        patches = f"patches of {vit.patch_size} and "
    if is_network:
        text += f", {model.num_queries} queries and {model.num_masked_layers} layers "
        text += f"with masked attention, {model.num_classes} classes"
        text += f" ({info.name}, {info.task})" if info else " without names"
    count = sum(leaf.size for leaf in jax.tree.leaves(source.params))
    height, width = model.image_size
    return (
        f"{text}, {count:,} parameters, for {patches}images of {height} x {width} "
        "pixels."
    )


if __name__ == "__main__":
    sys.exit(main())
