"""Whole checkpoints: parameters, optimizer, step, random state and data position.

A checkpoint folder holds one folder a step with three parts, which orbax writes beside
one another and renames into place when all are complete:

  params     the network's parameters, so that inference reads nothing else
  training   optimizer state, step and random key
  position   JSON, see DataPosition
"""

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from eomt_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class DataPosition:
    """Where in which stream of examples a run stands.

    Attributes:
      next_example: examples read so far, over all epochs and processes.
      batch_size: images in the global batch; it decides where an epoch ends.
      seed: the run's seed; it decides the order and the augmentations.
      dataset: name of the prepared dataset.
      split: of the dataset.
      fingerprint: of the dataset's classes and image counts.
    """

    next_example: int
    batch_size: int
    seed: int
    dataset: str
    split: str
    fingerprint: str

    def check_same_stream(self, now: "DataPosition", *, folder: epath.PathLike) -> None:
        """Raises ValueError where `now` would read other examples than this position.

        Args:
          now: the position that the present config leads to.
          folder: the checkpoint's, for the message.
        """
        fields = {
            "batch_size": "config.batch_size",
            "seed": "config.seed",
            "dataset": "config.dataset.name",
            "split": "config.dataset.train_split",
            "fingerprint": "the prepared dataset's classes or images",
        }
        changed = [
            f"{what}: {getattr(self, name)!r} then, {getattr(now, name)!r} now"
            for name, what in fields.items()
            if getattr(self, name) != getattr(now, name)
        ]
        if changed:
            raise ValueError(
                f"The checkpoints in {folder} belong to another run, which cannot be "
                f"continued with {'; '.join(changed)}. Restore these values, or give "
                "the new run a --workdir of its own."
            )


class Checkpoints:
    """Saves and restores the training state of one run; a context manager.

    Saving returns as soon as the arrays are copied to the host and writes while
    training goes on. Leaving the context waits for what is being written.
    """

    def __init__(self, folder: epath.PathLike, *, keep: int):
        """Opens or makes the folder; leftovers of interrupted saves are removed.

        Args:
          folder: one for each run.
          keep: how many of the newest checkpoints stay.
        """
        if keep < 1:
            raise ValueError(f"checkpoint.keep = {keep}: keep at least one")
        self.folder = epath.Path(folder)
        self._manager = ocp.CheckpointManager(
            self.folder.expanduser().resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True
            ),
            item_names=("params", "training", "position"),
        )

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None without any."""
        return self._manager.latest_step()

    def path(self, step: int) -> epath.Path:
        """Folder of the checkpoint at `step`."""
        return self.folder / str(step)

    def save(self, step: int, state: TrainState, position: DataPosition) -> None:
        """Writes a checkpoint in the background; does nothing where it exists."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                training=ocp.args.StandardSave(_training_part(state)),
                position=ocp.args.JsonSave(dataclasses.asdict(position)),
            ),
        )

    def read_position(self, step: int) -> DataPosition:
        """The data position at `step`, without the arrays."""
        items = self._manager.restore(
            step, args=ocp.args.Composite(position=ocp.args.JsonRestore())
        )
        return DataPosition(**items["position"])

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at `step`, placed as `like` is.

        Args:
          step: of a checkpoint that exists.
          like: a state of the same shapes; arrays, or jax.ShapeDtypeStructs with a
            sharding. The mesh may differ from the one that saved.

        Raises:
          ValueError: the state saved is of other shapes.
        """
        like = jax.tree.map(_abstract, like)
        self._check_shapes(step, "params", like.params)
        self._check_shapes(step, "training", _training_part(like))
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                training=ocp.args.StandardRestore(_training_part(like)),
            ),
        )
        training = items["training"]
        return dataclasses.replace(like, params=items["params"], **training)

    def _check_shapes(self, step: int, item: str, like: Any) -> None:
        folder = self.path(step).expanduser().resolve() / item
        stored = ocp.PyTreeCheckpointHandler().metadata(folder)
        saved, wanted = _shapes(stored.tree), _shapes(like)
        differing = [
            f"{name}: {saved.get(name, 'none')} then, {wanted.get(name, 'none')} now"
            for name in {**wanted, **saved}
            if saved.get(name) != wanted.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.path(step)} cannot be continued with this config, for "
                f"{len(differing)} of its arrays are other ones: {differing[0]} … "
                "Restore config.model, config.image_size and "
                "config.optimizer.frozen_blocks, or give the new run a --workdir of "
                "its own and this one as --config.init.checkpoint."
            )

    def wait(self) -> None:
        """Returns when everything saved is complete on disk."""
        self._manager.wait_until_finished()

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()


def _training_part(state: TrainState) -> dict[str, Any]:
    return {"opt_state": state.opt_state, "step": state.step, "rng": state.rng}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
