"""Finds the complete steps and the best step in a checkpoint's folder."""

import math
from collections.abc import Sequence

from etils import epath

from eomt_jax import json_files

PARAMS_ITEM = "params"
# Item of a training's step that describes the step, see training/stored_step.py.
ABOUT_ITEM = "about"
# orbax's mark of a complete item in a bucket.
COMMIT_FILE = "commit_success.txt"


def complete_steps(folder: epath.Path) -> list[int]:
    """Returns the completely written steps in a folder of steps, in order.

    An unfinished step has another name, or, in a bucket, no mark of success.
    """
    import orbax.checkpoint as ocp  # here, for it takes a second

    return sorted(
        int(step.name)
        for step in (folder.iterdir() if folder.exists() else ())
        if step.name.isdigit() and ocp.utils.is_checkpoint_finalized(step)
    )


def best_step(folder: epath.Path, complete: Sequence[int]) -> tuple[int, str] | None:
    """Returns the step that a training's evaluations scored best, and its score.

    Args:
      folder: the folder of steps.
      complete: the steps among which to choose; the later of equally good ones is best.

    Returns:
      The step, and its score in words; None if no step has a score, as in a training
      that doesn't keep the best.
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
    """Returns the checksums that a training stored; None for a step of no training."""
    file = step / ABOUT_ITEM / "metadata"
    if not file.exists():
        return None
    return json_files.read_object(file)["checksums"][PARAMS_ITEM]


def instead_of(step: epath.Path) -> str:
    """Returns a sentence on what to do about a damaged step."""
    others = [n for n in complete_steps(step.parent) if str(n) != step.name]
    if not others:
        return "Copy or convert it again."
    return f"Give another one as the checkpoint: {step.parent / str(others[-1])}"
