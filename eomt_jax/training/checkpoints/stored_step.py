"""Writes and reads one step of a run's checkpoints.

Its folder has four parts, which orbax writes beside one another and renames into place
when all are complete:

  params     the network's parameters and batch statistics: what inference reads
  training   optimizer state, step and random key
  position   JSON, see DataPosition
  about      JSON: version of this layout, checksums of all arrays, the score of the
             evaluation after this step, if there was one, and how many images have been
             replaced by others so far
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from eomt_jax import json_files
from eomt_jax.regular_files import check_folder
from eomt_jax.training.checkpoints.joint_reading import (
    DamagedError,
    read_in_all,
    reason_of,
)
from eomt_jax.training.state import TrainState
from eomt_jax.trees import leaves_by_path, to_variables
from eomt_jax.weights.native import steps
from eomt_jax.weights.native.checksums import changed, checksums
from eomt_jax.weights.native.steps import ABOUT_ITEM, PARAMS_ITEM

VERSION = 1
ITEMS = (PARAMS_ITEM, "training", "position", ABOUT_ITEM)


@dataclasses.dataclass(frozen=True)
class DataPosition:
    """The place of a run in its stream of examples.

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
        changes = [
            f"{what}: {getattr(self, name)!r} then, {getattr(now, name)!r} now"
            for name, what in fields.items()
            if getattr(self, name) != getattr(now, name)
        ]
        if changes:
            raise ValueError(
                f"The checkpoints in {folder} belong to another run, which cannot be "
                f"continued with {'; '.join(changes)}. Restore these values, or give "
                "the new run a --workdir of its own."
            )


def check_step(folder: epath.PathLike, step: int, *, now: DataPosition) -> None:
    """Raises ValueError where a checkpoint's content is of another step than its name.

    Args:
      folder: the run's checkpoints.
      step: that the content is of.
      now: the position that the name leads to.
    """
    named = now.next_example // now.batch_size
    if step != named:
        raise ValueError(
            f"{epath.Path(folder) / str(named)} holds the state after step {step}, not "
            f"{named}: it was renamed. Give the folder its own number again, or move it "
            "out of the way."
        )


@dataclasses.dataclass(frozen=True)
class Score:
    """An evaluation's result in one number, which checkpoints are compared by.

    Attributes:
      name: "PQ", "mIoU" or "AP".
      value: more is better.
    """

    name: str
    value: float


def to_save(
    state: TrainState,
    position: DataPosition,
    *,
    score: Score | None,
    num_replaced: int = 0,
) -> ocp.args.Composite:
    """Returns what orbax writes; it copies the arrays before it returns."""
    training = _training_part(state)
    about = {
        "version": VERSION,
        "checksums": {
            PARAMS_ITEM: checksums(state.network_params),
            "training": checksums(training),
        },
        "score": None if score is None else dataclasses.asdict(score),
        "num_replaced": num_replaced,
    }
    return ocp.args.Composite(
        params=ocp.args.StandardSave(state.network_params),
        training=ocp.args.StandardSave(training),
        position=ocp.args.JsonSave(dataclasses.asdict(position)),
        about=ocp.args.JsonSave(about),
    )


def read_score(folder: epath.Path) -> Score | None:
    """Returns the step's score; None without one, or where it can't be read."""
    score = steps.read_score(folder)
    return None if score is None else Score(*score)


def write_score(folder: epath.Path, score: Score) -> None:
    """Adds the score of an evaluation that was made after the step was saved."""
    path = folder / ABOUT_ITEM / "metadata"
    about = {**_read_json(folder / ABOUT_ITEM), "score": dataclasses.asdict(score)}
    unfinished = path.parent / f".{path.name}.unfinished"
    unfinished.write_text(json.dumps(about))
    unfinished.replace(path)


def read_num_replaced(folder: epath.Path) -> int:
    """Returns how many images had been replaced up to the step; 0 if unknown."""
    try:
        number = _read_json(folder / ABOUT_ITEM).get("num_replaced")
    except DamagedError:
        return 0
    return number if type(number) is int and 0 <= number < 1 << 62 else 0


def read_position(folder: epath.Path) -> DataPosition:
    """Returns the step's data position, without the arrays.

    Raises:
      DamagedError: in any of the processes it is damaged; all of them must call.
      UnreachableError: in any of them it can't be reached.
      ValueError: it was written by a later version.
    """

    def read() -> tuple[int, DataPosition | None]:
        version = _read_json(folder / ABOUT_ITEM).get("version")
        if type(version) is not int:
            raise DamagedError(f"{ABOUT_ITEM}: version = {version!r:.80}")
        if version != VERSION:
            return version, None
        return version, _read_position(folder / "position")

    version, position = read_in_all(folder, read)
    if position is None:
        raise ValueError(
            f"{folder} has the layout of version {version!r:.20}; this eomt_jax goes on from "
            f"version {VERSION}. Use the release that wrote it, or start a run of its "
            "own with it as --config.init.checkpoint."
        )
    return position


def restore(folder: epath.Path, like: TrainState) -> TrainState:
    """Returns the step's state, placed as `like` is.

    Args:
      folder: of the step.
      like: a state of the same shapes; arrays, or jax.ShapeDtypeStructs with a
        sharding. The mesh may differ from the one that saved.

    Raises:
      DamagedError: in any of the processes it is damaged; all of them must call.
      UnreachableError: in any of them it can't be reached.
      ValueError: the state saved is of other shapes or types.
    """
    like = jax.tree.map(_abstract, like)
    parts = {PARAMS_ITEM: like.network_params, "training": _training_part(like)}

    def read_descriptions() -> tuple[dict[str, Any], dict[str, Any]]:
        check_folder(folder)
        stored = {item: _stored_arrays(folder / item) for item in parts}
        return stored, {item: steps.read_checksums(folder, item) for item in parts}

    def read_arrays() -> dict[str, Any]:
        handler, standard = ocp.StandardCheckpointHandler(), ocp.args.StandardRestore
        return {
            item: handler.restore(folder / item, args=standard(part))
            for item, part in parts.items()
        }

    stored, wanted = read_in_all(folder, read_descriptions)
    _check_same_arrays(folder, stored, parts)
    restored = read_in_all(folder, read_arrays)
    for item, part in restored.items():
        names = changed(part, wanted[item])
        if names:
            problem = f"{len(names)} of its arrays have changed, as {item}/{names[0]}"
            raise DamagedError(f"{folder} is damaged: {problem}.")
    variables = to_variables(restored[PARAMS_ITEM])
    return dataclasses.replace(like, **variables, **restored["training"])


def _training_part(state: TrainState) -> dict[str, Any]:
    return {"opt_state": state.opt_state, "step": state.step, "rng": state.rng}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _read_position(item: epath.Path) -> DataPosition:
    values = _read_json(item)
    for field in dataclasses.fields(DataPosition):
        value: Any = values.get(field.name)
        if type(value) is not field.type or field.type is int and value < 0:
            raise DamagedError(f"{item.name}: {field.name} = {value!r:.80}")
    return DataPosition(**values)


def _read_json(item: epath.Path) -> dict[str, Any]:
    try:
        return json_files.read_object(item / "metadata")
    except ValueError as error:
        raise DamagedError(f"{item.name}: {reason_of(error)}") from error


def _stored_arrays(item: epath.Path) -> dict[str, str]:
    """Returns the arrays that an item's metadata lists: "float32 (3, 4)" by path."""
    return _described(ocp.PyTreeCheckpointHandler().metadata(item).tree)


def _described(tree: Any) -> dict[str, str]:
    return {
        path: f"{np.dtype(leaf.dtype).name} {tuple(leaf.shape)}"
        for path, leaf in leaves_by_path(tree).items()
    }


def _check_same_arrays(
    folder: epath.Path, stored: dict[str, dict[str, str]], parts: dict[str, Any]
) -> None:
    for item, part in parts.items():
        saved, wanted = stored[item], _described(part)
        differing = [
            f"{name}: {saved.get(name, 'none')} then, {wanted.get(name, 'none')} now"
            for name in {**wanted, **saved}
            if saved.get(name) != wanted.get(name)
        ]
        if differing:
            raise ValueError(
                f"{folder} cannot be continued with this config, for {len(differing)} "
                f"of its arrays are other ones: {differing[0]} … Restore config.model, "
                "config.image_size, config.optimizer.frozen_blocks and "
                "config.optimizer.moments_dtype, or give the new run a --workdir of "
                "its own and this one as --config.init.checkpoint."
            )
