"""Arguments and files of an upload to the Hugging Face hub."""

import argparse
from pathlib import Path
from typing import Any

from etils import epath

from eomt_jax.models.network import Network
from eomt_jax.training.reporting.model_card import PICTURE, TrainedRun, model_card
from eomt_jax.weights.formats import hub_upload
from eomt_jax.weights.formats.files import WEIGHTS
from eomt_jax.weights.native import model_folder


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --push_to, and what belongs to it."""
    parser.add_argument(
        "--push_to",
        default="",
        metavar="ORG/NAME",
        help="upload the result to a new repository on the Hugging Face hub, with a "
        "page about its training; --to is safetensors then, or huggingface",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="let only you, or your organisation, see the repository",
    )
    parser.add_argument(
        "--license",
        default="",
        help="licence of the weights for the repository's page, as the hub calls it, "
        "such as apache-2.0 or cc-by-4.0",
    )
    parser.add_argument(
        "--picture",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="upload the training's newest picture of predictions, which shows some of "
        "the photographs that it was evaluated on",
    )


def check_push(options: argparse.Namespace) -> None:
    """Raises ValueError if the arguments for an upload don't fit one another."""
    if not options.push_to:
        given = {"private": options.private, "license": options.license}
        given["no-picture"] = not options.picture
        for name in (name for name, value in given.items() if value):
            raise ValueError(f"--{name} has no meaning without --push_to.")
        return
    hub_upload.check_name(options.push_to)
    if options.to == "eomt_jax":
        raise ValueError(
            "--push_to uploads one file or a folder for transformers: give "
            "--to=safetensors or --to=huggingface."
        )
    if options.to == "huggingface" and not options.out:
        raise ValueError("Give OUT, the new folder for transformers, with --push_to.")
    if "://" in (options.out or ""):
        raise ValueError(f"{options.out} must be on this machine to be uploaded.")


def describing_files(
    options: argparse.Namespace, source: Any, description: str
) -> dict[str, Path | bytes]:
    """Returns the README, and the picture that it shows, by their names.

    Args:
      options: the command's arguments.
      source: the network that is uploaded, with its dataset_info.
      description: a sentence on it.
    """
    run, files = _run_of(options.checkpoint), {}
    if options.picture and run is not None and run.picture is not None:
        files[PICTURE] = run.picture.read_bytes()
    card = model_card(
        options.push_to,
        description,
        info=source.dataset_info,
        run=run,
        license=options.license,
        is_backbone=not isinstance(source.model, Network),
        for_transformers=options.to == "huggingface",
        has_picture=bool(files),
    )
    return {**files, "README.md": card.encode()}


def weight_files(out: str) -> dict[str, Path | bytes]:
    """Returns the written file or the files of the written folder, by their names."""
    path = Path(out).expanduser()
    if path.is_file():
        return {WEIGHTS[0]: path}
    return {file.name: file for file in sorted(path.iterdir())}


def _run_of(checkpoint: str) -> TrainedRun | None:
    """Returns the training whose folder, or step, the checkpoint is."""
    path = epath.Path(checkpoint).expanduser()
    if not (path.is_dir() and model_folder.is_native(path)):
        return None
    return TrainedRun.of(model_folder.step_folder(path))
