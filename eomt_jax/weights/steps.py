"""Folders of a checkpoint's steps: which are complete, what lies in one."""

import math
from collections.abc import Sequence

from etils import epath

from eomt_jax import json_files

PARAMS_ITEM = "params"
# What a training's step says of itself, see training/stored_step.py.
ABOUT_ITEM = "about"
# By which orbax knows that what it finds in a bucket is whole.
COMMIT_FILE = "commit_success.txt"


def complete_steps(folder: epath.Path) -> list[int]:
    """The steps in a folder of steps that are written to their end, in order.

    An unfinished one has another name while it is written, or, in a bucket, no mark of
    success.
    """
    import orbax.checkpoint as ocp  # here, for it takes a second

    return sorted(
        int(step.name)
        for step in (folder.iterdir() if folder.exists() else ())
        if step.name.isdigit() and ocp.utils.is_checkpoint_finalized(step)
    )


def best_step(folder: epath.Path, complete: Sequence[int]) -> tuple[int, str] | None:
    """The step that a training's evaluations scored best, and its score in words.

    Args:
      folder: of steps.
      complete: those among which to choose; of equally good ones the later.

    Returns:
      None where none has a score, as in a training that doesn't keep the best.
    """
    scored = []
    for step in complete:
        try:
            about = json_files.read_object(folder / str(step) / ABOUT_ITEM / "metadata")
            name, value = str(about["score"]["name"]), float(about["score"]["value"])
        except (ValueError, KeyError, TypeError):
            continue
        if math.isfinite(value):
            scored.append((value, step, name))
    if not scored:
        return None
    value, step, name = max(scored)
    return step, f"{name} {value:.1f}"


def training_checksums(step: epath.Path) -> dict[str, int] | None:
    """What a training noted of a step's parameters; None where no training wrote it."""
    file = step / ABOUT_ITEM / "metadata"
    if not file.exists():
        return None
    return json_files.read_object(file)["checksums"][PARAMS_ITEM]


def instead_of(step: epath.Path) -> str:
    """What to do about a damaged step: another one of the folder may be sound."""
    others = [n for n in complete_steps(step.parent) if str(n) != step.name]
    if not others:
        return "Copy or convert it again."
    return f"Give another one as the checkpoint: {step.parent / str(others[-1])}"
