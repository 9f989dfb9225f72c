"""eomt-train trains on photographs and their labels, in one command."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from eomt_jax.options import Flag, Option, Real, Whole
from eomt_jax.own_data.choices import DATA_OPTIONS, OPTIONS


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and reports; returns the exit status."""
    options = vars(parse_arguments(arguments))
    # JAX is imported here so that misspelt flags are answered sooner.
    from eomt_jax.own_data.train import train
    from eomt_jax.training import guards

    paths = options.pop("paths")
    out = options.pop("out") or default_out(paths)
    try:
        train(paths, out, **options)
    except (
        *(ValueError, OSError, ImportError),
        *(guards.NonFiniteError, guards.OutOfMemoryError),
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def default_out(paths: Sequence[str]) -> str:
    """Returns runs/NAME, with the name of the first path."""
    name = paths[0].rstrip("/").rpartition("/")[2].partition(".")[0]
    return f"runs/{name or 'photographs'}"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="eomt-train",
        description="Trains a network on your photographs. It recognises masks of "
        "classes, masks of objects, COCO's JSONs of instances and of panoptic segments, "
        "and labels of YOLO, Labelme and CVAT, and chooses everything that isn't given by the data, the device and "
        "the weights that are there. The same command continues a stopped training.",
    )
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        metavar="PATH",
        help="the folder of photographs, and the folder of masks or the JSON; for a "
        "panoptic JSON its folder of PNGs too; or a tool's labels; zip and tar archives "
        "do as well",
    )
    add(
        "--out",
        help="folder of everything that is written; default: runs/NAME of the first path",
    )
    add(
        "--task",
        default="",
        help="panoptic, instance or semantic; default: what the labels are for",
    )
    add(
        "--classes",
        default="",
        help="class list for masks: a text with a name on each line, a JSON or a CSV; "
        "default: classes.txt or the like beside the masks",
    )
    for name, option in {**OPTIONS, **DATA_OPTIONS}.items():
        default = "chosen" if option.default is None else repr(option.default)
        text = f"{option.sentence} ({option.range}; default: {default})"
        if isinstance(option.range, Flag):
            add(f"--{name}", action=argparse.BooleanOptionalAction, help=text)
        else:
            add(f"--{name}", type=_type_of(option), help=text)
    # Photographs may stand before and after the options.
    return parser.parse_intermixed_args(arguments)


def _type_of(option: Option) -> Any:
    if isinstance(option.range, Whole):
        return int
    return float if isinstance(option.range, Real) else str


if __name__ == "__main__":
    sys.exit(main())
