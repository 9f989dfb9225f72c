"""Arguments of the commands that segment photographs, and how a segmenter is opened."""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from eomt_jax.parallel.compilation_cache import DEFAULT_FOLDER
from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.task_registry import task_names


def add_segmenter_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the checkpoint and the options that `open_segmenter` reads."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        type=not_empty,
        help="a training's folder, converted weights, the release's, a Hugging Face "
        "folder or name",
    )
    add("--backbone", default="", help="weights that the checkpoint is a delta to")
    add("--task", choices=task_names(), help="default: what the model was trained for")
    add(
        "--dataset",
        help="the dataset of the model's classes, if the checkpoint doesn't have it: a "
        "published name such as coco_panoptic, a prepared dataset's folder, or a JSON "
        "list of classes",
    )
    add("--image_size", type=int, help="pixels of the input; default: the training's")
    add(
        "--skip_padding",
        action="store_true",
        help="leave out the padding of photographs that aren't square: about 1.4 times as "
        "fast for photographs of 4:3, and a little less accurate",
    )
    add("--dtype", help="type to compute in; default: float32 on a CPU, else bfloat16")
    add_result_arguments(parser)


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what a checkpoint and an exported program have in common."""
    add = parser.add_argument
    add(
        "--max_instances",
        type=positive,
        help="most instances of a photograph; default: the number of the model's "
        "queries, at least 100",
    )
    add(
        "--nms_iou",
        type=float,
        help="keep only the best of instances of one class whose masks have a larger "
        "IoU than this, such as 0.7; default: keep all",
    )
    add(
        "--compilation_cache",
        default=DEFAULT_FOLDER,
        help=f"folder of compiled programs, '' for none; default: {DEFAULT_FOLDER}",
    )


def open_segmenter(
    options: argparse.Namespace, *, batch_size: int, confidence: str = ""
) -> Segmenter:
    """Opens the checkpoint that the arguments name.

    Args:
      options: with the arguments of `add_segmenter_arguments`.
      batch_size: see Segmenter.
      confidence: see Segmenter.

    Raises:
      ValueError: see Segmenter.from_checkpoint.
    """
    return Segmenter.from_checkpoint(
        options.checkpoint,
        backbone=options.backbone,
        dataset_info=options.dataset,
        task=options.task,
        image_size=options.image_size,
        dtype=options.dtype,
        batch_size=batch_size,
        skip_padding=options.skip_padding,
        max_instances=options.max_instances,
        nms_iou=options.nms_iou,
        confidence=confidence,
        compilation_cache=options.compilation_cache,
    )


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Prints warnings as sentences, without the places in the code that they are from."""

    def show(message: Warning | str, *_: Any) -> None:
        print(f"note: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def positive(text: str) -> int:
    """Returns the whole number above 0 that an argument is."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no whole number above 0")
    return int(text)


def not_empty(text: str) -> str:
    """Returns an argument that has at least one letter."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; is a shell's variable not set?")
    return text
