"""Arguments of the tools that open a checkpoint."""

import argparse
import dataclasses
from typing import Any

from eomt_jax.pipeline.info_sources import open_info
from eomt_jax.weights.load import Loaded, open_network

# Fields of the model that neither shapes nor, in some checkpoints, the config
# determine.
NUMBERS = {
    "num_heads": (int, "attention heads; default: the config's, else width / 64"),
    "num_query_blocks": (int, "blocks that see the queries; default: the checkpoint's"),
    "layer_norm_eps": (float, "of norms; default: the config's, else the network's"),
    "rope_theta": (float, "of rotary positions; default: the config's, else 100"),
}


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, noun: str) -> None:
    """Adds the checkpoint and the options that `overrides` reads."""
    parser.add_argument(
        "checkpoint",
        help=f"{noun}: a file, a folder or a name on the Hugging Face hub; may be in a "
        "bucket",
    )
    parser.add_argument(
        "--backbone",
        default="",
        help="the weights that belong to a checkpoint of differences, such as the "
        "release's with DINOv3",
    )
    parser.add_argument(
        "--delta",
        action=argparse.BooleanOptionalAction,
        help="whether the checkpoint holds differences, if it doesn't say so itself",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the network's images in pixels; default: the checkpoint's",
    )
    for name, (kind, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument(
        "--dataset",
        help="the dataset of an EoMT's classes, if the checkpoint doesn't have it: a "
        "published name such as coco_panoptic, a prepared dataset's folder, or a JSON "
        "list of classes",
    )


def open_checkpoint(options: argparse.Namespace, **fields: Any) -> Loaded:
    """Opens the EoMT that the arguments name, with the classes of --dataset if given.

    Args:
      options: the parsed arguments.
      **fields: further arguments of `open_network`.

    Raises:
      ValueError: `open_network` or `open_info` raises it, or the dataset has another
        number of classes.
    """
    info = open_info(options.dataset) if options.dataset else None
    loaded = open_network(
        options.checkpoint, backbone=options.backbone, **overrides(options), **fields
    )
    if info is None:
        return loaded
    if info.num_classes != loaded.model.num_classes:
        raise ValueError(
            f"{options.checkpoint} predicts {loaded.model.num_classes} classes, "
            f"--dataset {options.dataset} has {info.num_classes}."
        )
    # --dataset gives what these notes ask for.
    notes = tuple(note for note in loaded.notes if "dataset_info" not in note)
    return dataclasses.replace(loaded, dataset_info=info, notes=notes)


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the keyword arguments for `load` that the user gave."""
    given = {name: getattr(options, name) for name in ("delta", *NUMBERS)}
    given["image_size"] = tuple(options.image_size) if options.image_size else None
    return {name: value for name, value in given.items() if value is not None}
