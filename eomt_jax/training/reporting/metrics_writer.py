"""Writes a run's metrics: metrics.jsonl, TensorBoard event files, a tracker."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.training.reporting.event_file import EventFile
from eomt_jax.training.reporting.logging import Scalars
from eomt_jax.training.reporting.trackers import Tracking


class MetricsWriter:
    """One record a step, in metrics.jsonl, TensorBoard event files and a tracker.

    Records past `step` are dropped when the writer is opened: a run that was resumed
    there writes them again. Its own may be added to.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        step: int,
        enabled: bool = True,
        tracking: Tracking | None = None,
    ):
        """Opens or makes the files.

        Args:
          workdir: a folder that exists.
          step: to go on after.
          enabled: False writes nothing, for processes other than the main one.
          tracking: a tracker that gets the records too.
        """
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._records: dict[int, Scalars] = {}
        self._written: list[str] = []
        self._events = None
        self._tracking = tracking if enabled else None
        if not enabled:
            return
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._written = [line for line in lines if _step_of(line) <= step]
        self._rewrite()
        folder = epath.Path(workdir) / "tensorboard"
        self._events = EventFile(folder, after_step=step)
        if self._tracking is not None:
            redone = [line for line in lines if step < _step_of(line) < sys.maxsize]
            self._tracking.begin(
                kept=[json.loads(line) for line in self._written],
                redone=[json.loads(line) for line in redone],
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values to the record of `step`."""
        self._records.setdefault(step, {}).update(values)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Adds a picture, uint8 [H, W, 3], to TensorBoard and the tracker."""
        if self._events is not None:
            self._events.image(step, name, picture)
        if self._tracking is not None:
            self._tracking.image(step, name, picture)

    def best(self, step: int, best: tuple[int, Score]) -> None:
        """Shows at the tracker which step scored best, and how, when a run ends.

        Args:
          step: the run's last one.
          best: step and score of the best checkpoint.
        """
        if self._tracking is not None:
            at, score = best
            values = {f"best/{score.name}": score.value, "best/step": float(at)}
            self._tracking.scalars(step, values)

    def flush(self) -> None:
        """Writes the records; call it once a step, before a checkpoint is saved."""
        records, self._records = self._records, {}
        if self._events is None:
            return
        lines, amended = [], False
        for step, values in records.items():
            # JSON knows no NaN, and TensorBoard draws none.
            known = {k: v if math.isfinite(v) else None for k, v in values.items()}
            record = {"step": step}
            if self._written and _step_of(self._written[-1]) == step:
                record, amended = json.loads(self._written.pop()), True
            lines.append(json.dumps({**record, **known}))
            self._written.append(lines[-1])
            shown = {k: float(v) for k, v in known.items() if v is not None}
            for name, value in shown.items():
                self._events.scalar(step, name, value)
            if self._tracking is not None:
                self._tracking.scalars(step, shown)
        with _named_in_errors(self._path):
            if amended or (lines and "://" in str(self._path)):
                self._rewrite()
            elif lines:
                with self._path.open("a") as file:
                    file.write("".join(f"{line}\n" for line in lines))
        with _named_in_errors(self._events.folder):
            self._events.flush()

    def _rewrite(self) -> None:
        """Writes all records anew, for nothing can be added to a file in a bucket."""
        if not self._written and not self._path.exists():
            return
        text = "".join(f"{line}\n" for line in self._written)
        unfinished = self._path.parent / f".{self._path.name}.unfinished"
        unfinished.write_text(text)
        unfinished.replace(self._path)

    def __enter__(self):
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._events is None:
            return
        try:
            # A failure here after an error is a consequence of it, and would hide it.
            with contextlib.suppress(OSError) if error else contextlib.nullcontext():
                self.flush()
            with contextlib.suppress(OSError) if error else contextlib.nullcontext():
                self._events.close()
        finally:
            if self._tracking is not None:
                self._tracking.close(failed=error is not None)


@contextlib.contextmanager
def _named_in_errors(path: epath.Path) -> Iterator[None]:
    """Names the path in an error of writing to it, which by itself names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _step_of(line: str) -> int:
    """Returns the record's step; past any for a line that a killed process tore."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return sys.maxsize
