"""Shows a run in an experiment tracker too: Weights & Biases or MLflow.

A thread of its own talks to the tracker, so that one that is slow or can't be reached
takes no time of the training and can't end it.
"""

import contextlib
import functools
import importlib.util
import json
import queue
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath

from eomt_jax import json_files
from eomt_jax.parallel.processes import is_main
from eomt_jax.training.reporting.logging import Scalars, say

ID_FILE = "tracker.json"
THREAD = "tracker"

# Records that wait to be sent; further ones are left out.
_MAX_WAITING = 1000
# Seconds that the end of a run waits for what is not sent yet.
_LAST_WAIT = 60.0
_LAST_WAIT_AFTER_ERROR = 10.0
# Letters of another library's error in a message.
_MAX_REASON = 600


class RunToShow(NamedTuple):
    """A run, as a tracker shows it.

    Attributes:
      project: the project or experiment that it belongs to.
      name: its name there.
      config: the fields of its recipe, as a tree.
      folder: its work directory.
    """

    project: str
    name: str
    config: dict[str, Any]
    folder: epath.Path


@runtime_checkable
class Tracker(Protocol):
    """An experiment tracker with one run; each method may take long, and may raise."""

    def __init__(self, run: RunToShow): ...

    def open(self, run_id: str) -> None:
        """Begins the run of that id, or continues it, and shows the config."""
        ...

    def scalars(self, step: int, values: Scalars) -> None:
        """Shows finite numbers of a step."""
        ...

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        ...

    def close(self, *, failed: bool) -> None:
        """Ends the run, which can be continued later."""
        ...


class _Kind(NamedTuple):
    """A tracker that can be chosen: its name in messages, and where its class is."""

    title: str
    module: str
    cls: str


KINDS = {
    "wandb": _Kind("Weights & Biases", "wandb_tracker", "WandbTracker"),
    "mlflow": _Kind("MLflow", "mlflow_tracker", "MlflowTracker"),
}


def check(kind: str) -> None:
    """Raises ImportError if the main process lacks the tracker's package.

    It also raises ValueError if the tracker knows already that it will refuse.

    Args:
      kind: the config's `logging.tracker`; "" is none.
    """
    if not kind or not is_main():
        return
    if importlib.util.find_spec(kind) is None:
        raise ImportError(
            f"config.logging.tracker = {kind} needs a package that is not installed: "
            f"pip install 'eomt_jax[{kind}]'"
        )
    check_access = getattr(_module(kind), "check_access", None)
    if check_access is not None:
        check_access()


def create(kind: str, run: RunToShow) -> "Tracking | None":
    """Returns the tracking of a run; None if the config names no tracker."""
    if not kind:
        return None
    tracker = getattr(_module(kind), KINDS[kind].cls)(run)
    return Tracking(tracker, kind, run.folder, project=run.project)


def _module(kind: str) -> Any:
    return importlib.import_module(f"{__package__}.{KINDS[kind].module}")


class Tracking:
    """Sends a run's records to its tracker in the background, and never raises.

    The run's id at the tracker is kept in its work directory, so that it goes on there
    when it is resumed. What can't be sent is left out, which is said once.
    """

    def __init__(
        self, tracker: Tracker, kind: str, folder: epath.PathLike, *, project: str
    ):
        """Prepares the sending, which `begin` starts."""
        self._tracker = tracker
        self._key = f"{kind}/{project}"  # A run has an id in each project.
        self._title = KINDS[kind].title
        self._folder = epath.Path(folder)
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._sent: dict[int, Mapping[str, Any]] = {}
        self._num_lost = 0
        self._failed = False

    def begin(
        self, kept: Sequence[dict[str, Any]], redone: Sequence[dict[str, Any]]
    ) -> None:
        """Opens the tracker's run.

        Args:
          kept: records of metrics.jsonl, which are sent first where the run is new to
            the tracker.
          redone: records past the step at which the run is resumed. They are computed
            again, and not sent twice.
        """
        run_id = self._read_ids().get(self._key)
        if isinstance(run_id, str):
            self._sent = {record["step"]: record for record in redone}
            kept = ()
        else:
            run_id = secrets.token_hex(4)
        self._thread = threading.Thread(
            target=self._work, args=(run_id, kept), name=THREAD, daemon=True
        )
        self._thread.start()

    def scalars(self, step: int, values: Scalars) -> None:
        """Sends finite numbers of a step."""
        before = self._sent.get(step, {})
        new = {name: value for name, value in values.items() if name not in before}
        if new:
            self._put(functools.partial(self._tracker.scalars, step, new))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Sends a picture, uint8 [H, W, 3]."""
        self._put(functools.partial(self._tracker.image, step, name, picture))

    def close(self, *, failed: bool) -> None:
        """Ends the tracker's run; waits a little for what is not sent yet."""
        if self._thread is None or not self._thread.is_alive():
            return
        self._failed = failed
        wait = _LAST_WAIT_AFTER_ERROR if failed else _LAST_WAIT
        try:
            self._queue.put(None, timeout=wait)
            self._thread.join(wait)
        except queue.Full:
            pass
        if self._thread.is_alive():
            say(
                f"{self._title} has not taken everything within {wait:.0f} s, and is "
                f"not waited for any longer. All records are in {self._folder}."
            )
        elif self._num_lost > 1:
            say(
                f"{self._title} lacks {self._num_lost} records of this run. All of them "
                f"are in {self._folder}."
            )

    def _put(self, task: Callable[[], None]) -> None:
        if self._thread is None or not self._thread.is_alive():
            return
        try:
            self._queue.put_nowait(task)
        except queue.Full:
            self._lose("it does not answer")

    def _work(self, run_id: str, history: Sequence[dict[str, Any]]) -> None:
        try:
            self._tracker.open(run_id)
            ids = {**self._read_ids(), self._key: run_id}
            (self._folder / ID_FILE).write_text(json.dumps(ids) + "\n")
        except Exception as error:  # noqa: BLE001 (trackers raise anything)
            say(
                f"{self._title} does not show this run ({_reason(error)}). The training "
                f"goes on, and all records are in {self._folder}."
            )
            return
        for record in history:
            known = {name: v for name, v in record.items() if v is not None}
            self._try(
                functools.partial(self._tracker.scalars, known.pop("step"), known)
            )
        while (task := self._queue.get()) is not None:
            self._try(task)
        # Where this fails, what was sent is there nevertheless.
        with contextlib.suppress(Exception):
            self._tracker.close(failed=self._failed)

    def _try(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:  # noqa: BLE001 (trackers raise anything)
            self._lose(_reason(error))

    def _lose(self, reason: str) -> None:
        self._num_lost += 1
        if self._num_lost == 1:
            say(
                f"{self._title} did not take a record of this run ({reason}). The "
                f"training goes on, and all records are in {self._folder}."
            )

    def _read_ids(self) -> dict[str, Any]:
        path = self._folder / ID_FILE
        try:
            return json_files.read_object(path) if path.exists() else {}
        except ValueError:
            return {}


def _reason(error: Exception) -> str:
    """Returns an error's type and text, on one line and without passwords."""
    text = re.sub(r"://[^/@\s]*@", "://", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:_MAX_REASON]}"
