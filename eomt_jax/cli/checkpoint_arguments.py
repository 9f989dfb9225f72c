"""Arguments of the tools that open somebody's weights."""

import argparse
from typing import Any

# Fields of the model that shapes don't tell and a checkpoint's config may not either.
NUMBERS = {
    "num_heads": (int, "attention heads; default: the config's, else width / 64"),
    "num_query_blocks": (int, "blocks that see the queries; default: the checkpoint's"),
    "layer_norm_eps": (float, "default: the config's, else the architecture's"),
    "rope_theta": (float, "of rotary positions; default: the config's, else 100"),
}


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, noun: str) -> None:
    """The checkpoint, and what `overrides` reads."""
    parser.add_argument(
        "checkpoint",
        help=f"{noun}: a file, a folder or a name on the Hugging Face hub; may be in a "
        "bucket",
    )
    parser.add_argument(
        "--backbone",
        default="",
        help="what the checkpoint is a difference to, where it is one: the release's "
        "DINOv3 weights are",
    )
    parser.add_argument(
        "--delta",
        action=argparse.BooleanOptionalAction,
        help="whether it is one, where the checkpoint doesn't tell",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="in pixels; default: the checkpoint's",
    )
    for name, (kind, text) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords for `load` of what was given."""
    given = {name: getattr(options, name) for name in ("delta", *NUMBERS)}
    given["image_size"] = tuple(options.image_size) if options.image_size else None
    return {name: value for name, value in given.items() if value is not None}
