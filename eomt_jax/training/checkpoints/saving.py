"""The checkpoints of a run: written in the background, the newest and the best kept.

orbax writes them; its CheckpointManager would have to keep less than is promised here.
It empties a step in place, so that a kill meanwhile leaves a part under the step's
number, and it takes a score only when it saves, into an item that earlier runs don't
have.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from eomt_jax.parallel.processes import gather_rows, is_main
from eomt_jax.training.checkpoints import stored_step
from eomt_jax.training.checkpoints.stored_step import DataPosition, Score
from eomt_jax.training.state import TrainState
from eomt_jax.weights.native.steps import COMMIT_FILE, complete_steps

# By which orbax knows what an interrupted run has left.
_UNFINISHED = ".orbax-checkpoint-tmp"
# A process that fails waits so many seconds for a checkpoint that all write.
_LAST_WAIT = 20.0


class StorageError(OSError):
    """The run can't write its files; the message says what to do."""


class Checkpoints:
    """Saves and restores the training state of one run; a context manager.

    Saving returns as soon as the arrays are copied to the host and writes while
    training goes on. Leaving the context waits for what is being written. All processes
    make the same calls in the same order, and see the same folder.
    """

    def __init__(self, folder: epath.PathLike, *, keep: int, keep_best: int = 0):
        """Opens or makes the folder; leftovers of interrupted saves are removed.

        Args:
          folder: one for each run.
          keep: how many of the newest checkpoints stay, counted when the next one is
            saved: until then there is one more.
          keep_best: how many of those with the best scores stay beside them.
        """
        if keep < 1 or keep_best < 0:
            raise ValueError(
                f"checkpoint.keep = {keep} and checkpoint.keep_best = {keep_best}: keep "
                "at least one, and no negative number of the best"
            )
        self.folder = epath.Path(folder)
        self._absolute = self.folder.expanduser().resolve()  # orbax wants it so
        self._keep, self._keep_best = keep, keep_best
        self._writing: int | None = None
        self._scores: dict[int, Score] = {}
        if is_main():
            self._absolute.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self._absolute)
        # The first process's view of the folder is everyone's.
        found = complete_steps(self._absolute) if is_main() else []
        self._steps: list[int] = gather_rows(np.array(found, np.int64)).tolist()
        for step in self._steps:
            score = stored_step.read_score(self._absolute / str(step))
            if score is not None:
                self._scores[step] = score
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(*stored_step.ITEMS),
            # Made by the caller, whom an error reaches at once.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, in their order."""
        return list(self._steps)

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint; None without any."""
        return self._steps[-1] if self._steps else None

    def best(self) -> tuple[int, Score] | None:
        """Returns step and score of the best checkpoint; None if none has a score."""
        best = _best(self._steps, self._scores, 1)
        return (best[0], self._scores[best[0]]) if best else None

    def describe_best(self) -> str:
        """Returns a sentence on which checkpoint is the best, and how to use it."""
        best = self.best()
        if best is None:
            return f"No evaluation scored a checkpoint in {self.folder}."
        step, score = best
        return (
            f"Best checkpoint kept: {score.name} {score.value:.1f} after step {step}. "
            f"To use it: eomt-predict PHOTOS --checkpoint={self.path(step)}"
        )

    def path(self, step: int) -> epath.Path:
        """Returns the folder of the checkpoint at `step`."""
        return self.folder / str(step)

    def save(
        self,
        step: int,
        state: TrainState,
        position: DataPosition,
        *,
        score: Score | None = None,
        num_replaced: int = 0,
    ) -> None:
        """Writes a checkpoint in the background; does nothing where it exists.

        Raises:
          StorageError: this one or the one before can't be written.
        """
        self.wait()
        if step in self._steps:
            return
        self._prune()
        args = stored_step.to_save(
            state, position, score=score, num_replaced=num_replaced
        )
        self._writing = step
        if score is not None:
            self._scores[step] = score
        with self._explain():
            # By force, for a leftover with this name may lie in a bucket.
            self._checkpointer.save(self._absolute / str(step), args=args, force=True)

    def check(self) -> None:
        """Raises StorageError if what is being written has failed; doesn't wait."""
        with self._explain():
            self._checkpointer.check_for_errors()

    def wait(self) -> None:
        """Returns when everything saved is complete on disk.

        Raises:
          StorageError: it can't be written.
        """
        with self._explain():
            self._checkpointer.wait_until_finished()
        if self._writing is not None:
            self._steps.append(self._writing)
            self._writing = None

    def set_score(self, step: int, score: Score) -> None:
        """Gives a checkpoint that is there the score of an evaluation made since."""
        self._scores[step] = score
        if is_main():
            stored_step.write_score(self._absolute / str(step), score)

    def read_num_replaced(self, step: int) -> int:
        """Returns the step's count, see stored_step.read_num_replaced."""
        return stored_step.read_num_replaced(self._absolute / str(step))

    def read_position(self, step: int) -> DataPosition:
        """Returns the step's data position, see stored_step.read_position."""
        return stored_step.read_position(self._absolute / str(step))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the step's state, see stored_step.restore."""
        return stored_step.restore(self._absolute / str(step), like)

    def set_aside(self, step: int) -> epath.Path:
        """Gives a damaged checkpoint another name, by which nothing takes it for one.

        Returns:
          Its new path.
        """
        source = self._absolute / str(step)
        name = f"{step}.damaged"
        number = 1
        while (self._absolute / name).exists():
            number += 1
            name = f"{step}.damaged.{number}"
        gather_rows(np.zeros(1, np.uint8))  # All have found the name that is free.
        if is_main():
            source.rename(self._absolute / name)
        self._steps.remove(step)
        self._scores.pop(step, None)
        return self.folder / name

    def __enter__(self):
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self._end_after_error()
            return
        self.wait()
        self._prune()
        self._checkpointer.close()

    def _end_after_error(self) -> None:
        """Lets what is being written end, but not the others wait for it for long."""

        def finish() -> None:
            # It would hide what came before it.
            with contextlib.suppress(Exception):
                self._checkpointer.close()

        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        thread.join(None if jax.process_count() == 1 else _LAST_WAIT)

    def _prune(self) -> None:
        newest = self._steps[-self._keep :]
        best = _best(self._steps, self._scores, self._keep_best)
        for step in self._steps:
            if step not in newest and step not in best and is_main():
                _remove(self._absolute / str(step))
        self._steps = [step for step in self._steps if step in newest or step in best]

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        orbax_logger = logging.getLogger("absl")
        orbax_logger.addFilter(_is_worth_reading)
        try:
            yield
        except Exception as error:
            step, self._writing = self._writing, None
            reason = str(error).strip().split("\n")[0][:500]
            last = self.latest_step()
            good = "There is none before it."
            if last is not None:
                good = f"The last good one is {self.path(last)}."
            raise StorageError(
                f"Checkpoint {self.path(step or 0)} could not be written "
                f"({type(error).__name__}: {reason}). {good} Make room on the disk, or "
                "whatever the reason asks for, and start the same command again: it "
                "goes on from there."
            ) from error
        finally:
            orbax_logger.removeFilter(_is_worth_reading)


def _best(
    steps: Sequence[int], scores: Mapping[int, Score], count: int
) -> tuple[int, ...]:
    """Returns the steps with the best scores, best first; of equal ones the later."""
    scored = [step for step in steps if step in scores]
    scored.sort(key=lambda step: (scores[step].value, step), reverse=True)
    return tuple(scored[:count])


def _remove_leftovers(folder: epath.Path) -> None:
    for path in folder.iterdir():
        # In a bucket, whatever has no mark of success is unfinished.
        if path.name[0].isdigit() and ocp.utils.is_tmp_checkpoint(path):
            with contextlib.suppress(OSError):  # It then stays until the next start.
                path.rmtree(missing_ok=True)


def _remove(folder: epath.Path) -> None:
    """Removes a step so that what is half removed is not taken for a checkpoint."""
    if (folder / COMMIT_FILE).exists():
        (folder / COMMIT_FILE).unlink()
    # Where renaming is a copy, the mark of success is what counts.
    if not ocp.utils.is_gcs_path(folder):
        folder = folder.rename(folder.with_name(f"{folder.name}{_UNFINISHED}-removed"))
    with contextlib.suppress(OSError):  # It is then a leftover for the next start.
        folder.rmtree()


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Returns False for orbax's traceback of an error that has a sentence of ours."""
    return "Handler Commit operations" not in record.getMessage()
