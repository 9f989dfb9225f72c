"""A run's folder: what may lie in it, what is written there at the start of a run."""

import contextlib
import dataclasses
import errno
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from etils import epath

from eomt_jax import json_files
from eomt_jax.evaluation.run_config import CONFIG_FILE
from eomt_jax.file_names import check_utf8
from eomt_jax.options import fields_of
from eomt_jax.training.checkpoints.saving import StorageError
from eomt_jax.training.reporting.changed_length import describe_changed_length
from eomt_jax.training.reporting.logging import say
from eomt_jax.training.reporting.parameter_report import format_report
from eomt_jax.training.setup import Setup
from eomt_jax.weights.native import model_folder

_FOLDERS = (model_folder.STEPS_FOLDER, "tensorboard", "evaluations", "pictures")
_FILES = ("metrics.jsonl", CONFIG_FILE, model_folder.MODEL_FILE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check(workdir: epath.Path) -> None:
    """Raises ValueError if a file lies where a run needs a folder, or the reverse.

    It also raises one if the path isn't UTF-8.
    """
    check_utf8(workdir)
    above = [path for path in (workdir, *workdir.parents) if path.exists()]
    within = [workdir / name for name in _FOLDERS]
    for path in (*above[:1], *(path for path in within if path.exists())):
        if not path.is_dir():
            raise ValueError(
                f"{path} is a file, and the run in {workdir} needs a folder there: "
                "rename the file, or give another --workdir."
            )
    for path in (workdir / name for name in _FILES):
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder, and the run writes a file of that name: rename "
                "the folder, or give another --workdir."
            )


@contextlib.contextmanager
def explain_full_disk(workdir: epath.Path) -> Iterator[None]:
    """Turns the error of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageError(
            f"{error.filename or workdir} could not be written ({error.strerror}). Make "
            "room on the disk and start the same command again: it goes on from the "
            f"newest checkpoint in {workdir / model_folder.STEPS_FOLDER}, if there is one."
        ) from error


def describe(workdir: epath.Path, run: Setup, *, step: int) -> None:
    """Writes model.json and config.json; tells what differs from the run resumed.

    On several hosts, call it on one.

    Args:
      workdir: folder of the run.
      run: as it is about to begin or to go on.
      step: steps done; 0 of a run that begins.
    """
    start = run.initialization
    if start.loaded is not None:
        report = format_report(start.report, start.notes)
        say(f"Parameters\n{textwrap.indent(report, '  ')}")
    for warning in run.warnings:
        say(warning)
    path = workdir / CONFIG_FILE
    config = json.loads(json.dumps(dataclasses.asdict(run.config)))
    if step > 0 and path.exists():
        before = fields_of(_read_config(path))
        for name, value in fields_of(config).items():
            if name in before and before[name] != value:
                say(
                    f"Changed since this run began: config.{name} from "
                    f"{before[name]!r} to {value!r}."
                )
        if told := describe_changed_length(run, before, step):
            say(told)
    unfinished = workdir / f".{CONFIG_FILE}.unfinished"
    unfinished.write_text(json.dumps(config, indent=2) + "\n")
    unfinished.replace(path)
    model = model_folder.ModelConfig.of(run.initialization.model, run.info)
    model_folder.save_model_config(workdir, model)


def _read_config(path: epath.Path) -> dict[str, Any]:
    """Returns what was written, or nothing if it is no JSON; it only serves to compare."""
    try:
        return json_files.read_object(path)
    except ValueError:
        return {}
