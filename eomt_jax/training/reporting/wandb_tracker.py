"""Weights & Biases as a tracker.

Its own settings hold for where runs go: `wandb login`, and the environment variables
WANDB_MODE, WANDB_ENTITY, WANDB_BASE_URL and others.
"""

import importlib
from typing import Any

import numpy as np

from eomt_jax.training.reporting.logging import Scalars, say
from eomt_jax.training.reporting.trackers import RunToShow

# Seconds that the server may take at the beginning, and at the end of a run.
_INIT_TIMEOUT = 30.0
_FINISH_TIMEOUT = 20.0


def check_access() -> None:
    """Raises ValueError if runs go to a server and this machine has no key for it."""
    wandb: Any = importlib.import_module("wandb")
    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
        return
    if not wandb.login(prompt=False, verify=False):
        raise ValueError(
            "config.logging.tracker = wandb, but this machine isn't logged in to Weights "
            "& Biases: run `wandb login`, or set WANDB_API_KEY. With WANDB_MODE=offline "
            "the run stays on this machine, and `wandb sync` can send it later."
        )


class WandbTracker:
    """A run at Weights & Biases, whose files are in the run's work directory."""

    def __init__(self, run: RunToShow):
        """Prepares a run that `open` begins."""
        self._shown = run
        self._wandb: Any = None
        self._run: Any = None

    def open(self, run_id: str) -> None:
        """Begins or continues the run, on this machine if there is no server."""
        self._wandb = importlib.import_module("wandb")
        shown = self._shown
        arguments = {
            "id": run_id,
            "resume": "allow",
            "project": shown.project,
            "name": shown.name,
            # It writes to disks only; the default is the current folder.
            "dir": None if "://" in str(shown.folder) else str(shown.folder),
            "settings": self._wandb.Settings(
                init_timeout=_INIT_TIMEOUT, finish_timeout=_FINISH_TIMEOUT
            ),
        }
        try:
            self._run = self._wandb.init(**arguments)
        except Exception as error:  # noqa: BLE001 (its errors have no common class)
            self._wandb.teardown()  # It still holds the run's id.
            self._run = self._wandb.init(**arguments, mode="offline")
            reason = " ".join(str(error).split())
            say(
                f"Weights & Biases can't be reached ({reason}). The run is kept on this "
                f"machine, and sent by: wandb sync {self._run.settings.sync_dir}"
            )
        # Its own counter of steps only rises, and a resumed run may add to the step
        # at which it goes on.
        self._run.define_metric("*", step_metric="step")
        self._run.config.update(shown.config, allow_val_change=True)

    def scalars(self, step: int, values: Scalars) -> None:
        """Shows finite numbers of a step."""
        self._run.log({**values, "step": step})

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        self._run.log({name: self._wandb.Image(picture), "step": step})

    def close(self, *, failed: bool) -> None:
        """Ends the run, which can be continued later."""
        self._run.finish(exit_code=int(failed))
