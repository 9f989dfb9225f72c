"""Finds the complete steps and the best step in a checkpoint's folder."""

from collections.abc import Sequence

from etils import epath

from eomt_jax import json_files

PARAMS_ITEM = "params"
# Item of a training's step that describes it, see training/checkpoints/stored_step.
ABOUT_ITEM = "about"
# orbax's mark of a complete item in a bucket.
COMMIT_FILE = "commit_success.txt"
# Limits of a score that a training can have written.
_MAX_NAME, _MAX_SCORE = 80, 1e9


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
        score = read_score(folder / str(step))
        if score is not None:
            scored.append((score[1], step, score[0]))
    if not scored:
        return None
    value, step, name = max(scored)
    return step, f"{name} {value:.1f}"


def read_score(step: epath.Path) -> tuple[str, float] | None:
    """Returns the name and value of a step's score.

    It is None where the step has none, or none that can be read.
    """
    try:
        score = json_files.read_object(_about_file(step))["score"]
        name, value = score["name"], score["value"]
    except (ValueError, KeyError, TypeError):
        return None
    is_name = isinstance(name, str) and len(name) <= _MAX_NAME
    is_number = type(value) in (int, float) and abs(value) <= _MAX_SCORE
    return (name, float(value)) if is_name and is_number else None


def training_checksums(step: epath.Path) -> dict[str, int] | None:
    """Returns the checksums that a training stored; None for a step of no training."""
    if not _about_file(step).exists():
        return None
    return read_checksums(step, PARAMS_ITEM)


def read_checksums(step: epath.Path, item: str) -> dict[str, int]:
    """Returns the checksums of an item's arrays; ValueError where they can't be read."""
    file = _about_file(step)
    sums = json_files.read_object(file).get("checksums")
    own = sums.get(item) if isinstance(sums, dict) else None
    if not isinstance(own, dict):
        raise ValueError(f"{file} has no checksums of {item}")  # noqa: TRY004
    return own


def _about_file(step: epath.Path) -> epath.Path:
    return step / ABOUT_ITEM / "metadata"


def instead_of(step: epath.Path) -> str:
    """Returns a sentence on what to do about a damaged step."""
    others = [n for n in complete_steps(step.parent) if str(n) != step.name]
    if not others:
        return "Copy or convert it again."
    return f"Give another one as the checkpoint: {step.parent / str(others[-1])}"
