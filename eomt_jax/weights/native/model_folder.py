"""Reads and writes our own checkpoints: a model's fields, its classes, its parameters.

    folder/model.json                  the network's fields, and the class table
    folder/checkpoints/<step>/params   the parameter tree, by orbax

A training's work directory is such a folder, with more items in each step. Converted
weights are a folder with the single step 0, or one file:

    file.safetensors                   see single_file.py
"""

import dataclasses
import json
import logging
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from eomt_jax.file_names import check_utf8
from eomt_jax.regular_files import MAX_JSON, check_folder, check_regular
from eomt_jax.trees import leaves_by_path
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.native import checksums, single_file, steps
from eomt_jax.weights.native.model_fields import (
    check_fields,
    is_execution,
    stored_fields,
)
from eomt_jax.weights.wording import typed_reason

# orbax is imported where it is used: it takes a second, and a single file needs none.

MODEL_FILE = "model.json"
STEPS_FOLDER = "checkpoints"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Content of model.json.

    Attributes:
      fields: the module's fields; a module within is a dict of its own fields.
      kind: name of the module's class, such as "EoMT" or "ViT".
      dataset_info: class table of the training's dataset; None for a backbone.
      checksum: checksum of the parameters if there is one set of them; otherwise empty.
    """

    fields: dict[str, Any]
    kind: str
    dataset_info: DatasetInfo | None = None
    checksum: str = dataclasses.field(default="", compare=False)

    @classmethod
    def of(
        cls, model: nn.Module, dataset_info: DatasetInfo | None = None
    ) -> "ModelConfig":
        return cls(_module_fields(model), type(model).__name__, dataset_info)

    def to_json(self) -> str:
        info = self.dataset_info
        value = {
            "version": VERSION,
            "kind": self.kind,
            "model": self.fields,
            "dataset": json.loads(info.to_json()) if info else None,
        }
        if self.checksum:
            value[single_file.CHECKSUM_KEY] = self.checksum
        return json.dumps(value, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "ModelConfig":
        """Reads the text of `to_json`; errors name `source`."""
        try:
            value = json.loads(text)
            version, kind, fields = value["version"], value["kind"], value["model"]
            info, checksum = value["dataset"], value.get(single_file.CHECKSUM_KEY)
            if info is not None:
                info = DatasetInfo.from_json(json.dumps(info))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise ValueError(f"{source} cannot be read: {error!r}.") from error
        if version != VERSION:
            raise ValueError(
                f"{source} has version {version!r:.80}; this eomt_jax reads version "
                f"{VERSION}."
            )
        check_fields(source, kind, fields)
        return cls(stored_fields(kind, fields), kind, info, str(checksum or ""))


def save_model_config(folder: epath.PathLike, config: ModelConfig) -> None:
    """Writes model.json whole or not at all; on several hosts, call it on one."""
    folder = epath.Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{MODEL_FILE}.unfinished"
    unfinished.write_text(config.to_json())
    unfinished.replace(folder / MODEL_FILE)


def read_model_config(path: epath.PathLike) -> ModelConfig:
    """Reads model.json of a checkpoint folder of ours, or of one of its steps."""
    file = _root(path) / MODEL_FILE
    if not file.exists():
        raise ValueError(f"{path} is no checkpoint of eomt_jax: there is no {file}.")
    check_regular(file, max_bytes=MAX_JSON)
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    return ModelConfig.from_json(text, str(file))


def is_native(path: epath.PathLike) -> bool:
    """Returns whether this is a checkpoint folder of ours, or a step within one."""
    return (_root(path) / MODEL_FILE).exists()


def save_file(
    path: epath.PathLike,
    model: nn.Module,
    params: dict[str, Any],
    *,
    dataset_info: DatasetInfo | None = None,
) -> None:
    """Writes a model as a single file, whole or not at all.

    Raises:
      ValueError: there is something at the path, its name doesn't end in .safetensors,
        or a parameter is not finite.
    """
    single_file.write(path, ModelConfig.of(model, dataset_info).to_json(), params)


def save(
    folder: epath.PathLike,
    model: nn.Module,
    params: dict[str, Any],
    *,
    dataset_info: DatasetInfo | None = None,
) -> None:
    """Writes a model as a checkpoint folder with one step.

    Raises:
      ValueError: there already is a model in the folder, or its path isn't UTF-8.
    """
    check_utf8(folder)
    folder = epath.Path(folder).expanduser().resolve()  # orbax wants it absolute
    if is_native(folder):
        raise ValueError(f"{folder} already holds a model; give another folder.")
    import orbax.checkpoint as ocp

    item = folder / STEPS_FOLDER / "0" / steps.PARAMS_ITEM
    # Weights hardly get smaller by compression, which would copy them in memory. To
    # gather them in few files would copy those that have another order of axes.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, use_ocdbt=False)
    orbax_logger = logging.getLogger("absl")
    orbax_logger.addFilter(_is_worth_reading)
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(item, args=ocp.args.PyTreeSave(params))
    finally:
        orbax_logger.removeFilter(_is_worth_reading)
    # The marks are written on disks too, since a folder may be copied to a bucket
    # later.
    for part in (item, item.parent):
        (part / steps.COMMIT_FILE).write_text("")
    # model.json is written last, so that an interrupted save doesn't look like a model.
    config = ModelConfig.of(model, dataset_info)
    checksum = single_file.checksum(params)
    save_model_config(folder, dataclasses.replace(config, checksum=checksum))


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Returns False for orbax's warning that it gathers no files, which is intended."""
    return "Skipping merge of OCDBT" not in record.getMessage()


def read_params(path: epath.PathLike) -> dict[str, Any]:
    """Returns the parameters of a checkpoint folder as float32 NumPy arrays.

    They are read without regard to the mesh they were written from.

    Args:
      path: a checkpoint folder or work directory, of whose steps the best counts where a
        training kept the best, else the newest; or one step of it.
    """
    import orbax.checkpoint as ocp

    item = step_folder(path) / steps.PARAMS_ITEM
    if not item.exists():
        raise ValueError(
            f"{item} does not exist; {item.parent} is no step that eomt_jax wrote, or "
            f"it is damaged. {steps.instead_of(item.parent)}"
        )
    try:
        check_folder(item)
        wanted = ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.dtype("float32"))
        handler = ocp.PyTreeCheckpointHandler()
        # The handler is called, since the checkpointer warns if it finds no metadata.
        stored = handler.metadata(item).tree
        with ocp.Checkpointer(handler) as checkpointer:
            as_numpy = jax.tree.map(lambda _: wanted, stored)
            params = checkpointer.restore(
                item, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
        sums = steps.training_checksums(item.parent)
    except Exception as error:
        raise ValueError(
            f"{item} cannot be read ({typed_reason(error)}); it is damaged. "
            f"{steps.instead_of(item.parent)}"
        ) from error
    changed = checksums.changed(params, sums) if sums is not None else []
    if changed:
        raise ValueError(
            f"{item} is damaged: {len(changed)} of its arrays are not as they were "
            f"written, as {changed[0]}. {steps.instead_of(item.parent)}"
        )
    for name, value in leaves_by_path(params).items():
        if not np.isfinite(value).all():
            raise ValueError(f"{item}: {name} holds values that are not finite.")
    wanted = read_model_config(path).checksum if is_native(path) else ""
    if wanted:
        single_file.check(item, params, wanted)
    return params


def _root(folder: epath.PathLike) -> epath.Path:
    """Returns the checkpoint folder of a folder that may be one step of it."""
    folder = epath.Path(folder).expanduser().resolve()
    is_step = folder.name.isdigit() and folder.parent.name == STEPS_FOLDER
    return folder.parent.parent if is_step else folder


def step_folder(folder: epath.PathLike) -> epath.Path:
    """Returns the step to read in a checkpoint folder; for a step's folder, itself."""
    return _choose_step(folder)[0]


def _choose_step(folder: epath.PathLike) -> tuple[epath.Path, tuple[str, ...]]:
    """Returns the best complete step if it was kept, or the newest; and notes."""
    folder = epath.Path(folder).expanduser().resolve()
    if _root(folder) != folder:
        return folder, ()
    complete = steps.complete_steps(folder / STEPS_FOLDER)
    if not complete:
        raise ValueError(f"{folder / STEPS_FOLDER} holds no complete checkpoint.")
    best = steps.best_step(folder / STEPS_FOLDER, complete)
    if best is None:
        return folder / STEPS_FOLDER / str(complete[-1]), ()
    step, score = best
    chosen = folder / STEPS_FOLDER / str(step)
    if step == complete[-1]:
        return chosen, ()
    newest = folder / STEPS_FOLDER / str(complete[-1])
    note = f"Among its checkpoints the best one is taken, {chosen} with {score}"
    return chosen, (f"{note}; the newest is {newest}.",)


def chosen_step(path: epath.PathLike) -> tuple[epath.PathLike, tuple[str, ...]]:
    """Returns the step to read in a folder of ours, or any other path; and notes.

    The step is chosen once, since a training that is running may write a newer one.
    """
    is_folder = epath.Path(path).expanduser().is_dir()
    return _choose_step(path) if is_folder and is_native(path) else (path, ())


def _module_fields(module: nn.Module) -> dict[str, Any]:
    """Returns a module's fields as JSON values."""
    fields = {}
    for field in dataclasses.fields(module):
        if field.name in ("parent", "name") or is_execution(field):
            continue
        value = getattr(module, field.name)
        if isinstance(value, nn.Module):
            value = _module_fields(value)
        elif field.name == "dtype":
            value = jnp.dtype(value).name
        elif isinstance(value, tuple):
            value = list(value)
        fields[field.name] = value
    return fields
