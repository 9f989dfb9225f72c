"""eomt-export writes a network as a program that runs without this library."""

import argparse
import sys
from collections.abc import Sequence

from eomt_jax.cli.checkpoint_arguments import (
    add_checkpoint_arguments,
    open_checkpoint,
)
from eomt_jax.cli.standard_output import accept_any_name
from eomt_jax.predict import export
from eomt_jax.weights.new_folder import check_new

DTYPES = ("float32", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exports, and prints the program's inputs; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="eomt-export",
        description="Writes an EoMT as a folder with a StableHLO program that jax.export "
        "reads, its weights and a description; docs/export.md shows how to run it.",
    )
    add_checkpoint_arguments(parser, noun="an EoMT")
    parser.add_argument("out", help="folder to write, may be in a bucket")
    parser.add_argument(
        "--batch",
        type=_batch_size,
        default=None,
        metavar="N",
        help="images in a call; default: the program takes any number",
    )
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="some of cpu, cuda, rocm and tpu, with commas; default: %(default)s",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="type of the activations; default: %(default)s",
    )
    options = parser.parse_args(arguments)
    accept_any_name()

    try:
        check_new(options.out)
        loaded = open_checkpoint(options, dtype=options.dtype)
        export.save_export(
            options.out,
            loaded.model,
            loaded.params,
            dataset_info=loaded.dataset_info,
            batch_size=options.batch,
            platforms=[name.strip() for name in options.platforms.split(",")],
        )
    except (ValueError, ImportError, OSError) as error:
        print(f"eomt-export: {error}", file=sys.stderr)
        return 1
    for note in loaded.notes:
        print(f"note: {note}")
    height, width = loaded.model.image_size
    print(
        f"{options.out}: {options.batch or 'any number of'} images of {height} x {width} "
        f"pixels a call, {options.dtype}, on {options.platforms.replace(',', ', ')}."
    )
    return 0


def _batch_size(text: str) -> int | None:
    if text == "any":
        return None
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor 'any'")


if __name__ == "__main__":
    sys.exit(main())
