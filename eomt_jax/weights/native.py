"""Our own checkpoint folder: a model's fields, its dataset's classes, its parameters.

    folder/model.json                  what to build, and the class table
    folder/checkpoints/<step>/params   the parameter tree, by orbax

A training's work directory is such a folder, with more items in each step. Converted
weights are one with the single step 0.
"""

import dataclasses
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from eomt_jax.types import DatasetInfo

MODEL_FILE = "model.json"
STEPS_FOLDER = "checkpoints"
PARAMS_ITEM = "params"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What model.json says.

    Attributes:
      fields: of the module; a module within is a dict of its own fields.
      kind: the module's class, "EoMT" or "ViT".
      dataset_info: what the model was trained on; None for a bare backbone.
    """

    fields: dict[str, Any]
    kind: str
    dataset_info: DatasetInfo | None = None

    @classmethod
    def of(
        cls, model: nn.Module, dataset_info: DatasetInfo | None = None
    ) -> "ModelConfig":
        return cls(_module_fields(model), type(model).__name__, dataset_info)


def save_model_config(folder: epath.PathLike, config: ModelConfig) -> None:
    """Writes model.json whole or not at all; on several hosts, call it on one."""
    folder = epath.Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    info = config.dataset_info
    value = {
        "version": VERSION,
        "kind": config.kind,
        "model": config.fields,
        "dataset": json.loads(info.to_json()) if info else None,
    }
    unfinished = folder / f"{MODEL_FILE}.unfinished"
    unfinished.write_text(json.dumps(value, indent=2) + "\n")
    unfinished.replace(folder / MODEL_FILE)


def read_model_config(folder: epath.PathLike) -> ModelConfig:
    """What `save_model_config` wrote; `folder` may also be one of its steps."""
    path = _root(folder) / MODEL_FILE
    if not path.exists():
        raise ValueError(
            f"{folder} is no checkpoint folder of eomt_jax: there is no {path}."
        )
    try:
        value = json.loads(path.read_text())
        version, kind, fields = value["version"], value["kind"], value["model"]
        info = value["dataset"]
        if info is not None:
            info = DatasetInfo.from_json(json.dumps(info))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}.") from error
    if version != VERSION or not isinstance(fields, dict):
        raise ValueError(
            f"{path} has version {version!r}; this eomt_jax reads version {VERSION}."
        )
    return ModelConfig(fields, kind, info)


def is_native(folder: epath.PathLike) -> bool:
    """Whether this is a folder of ours, or a step within one."""
    return (_root(folder) / MODEL_FILE).exists()


def save(
    folder: epath.PathLike,
    model: nn.Module,
    params: dict[str, Any],
    *,
    dataset_info: DatasetInfo | None = None,
) -> None:
    """Writes a model as a checkpoint folder with one step.

    Raises:
      ValueError: there already is a model in the folder.
    """
    folder = epath.Path(folder).expanduser().resolve()  # orbax wants it absolute
    if is_native(folder):
        raise ValueError(f"{folder} already holds a model; give another folder.")
    item = folder / STEPS_FOLDER / "0" / PARAMS_ITEM
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(item, params)
    # Last, so that an interrupted save doesn't look like a model.
    save_model_config(folder, ModelConfig.of(model, dataset_info))


def read_params(folder: epath.PathLike) -> dict[str, Any]:
    """The newest complete step's parameters as float32 NumPy arrays.

    Read without regard to the mesh they were written from.

    Args:
      folder: a checkpoint folder or work directory, or one step of it.
    """
    item = step_folder(folder) / PARAMS_ITEM
    if not item.exists():
        raise ValueError(
            f"{item} does not exist; {item.parent} is no step that eomt_jax wrote."
        )
    try:
        wanted = ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.dtype("float32"))
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            stored = checkpointer.metadata(item).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: wanted, stored)
            params = checkpointer.restore(
                item, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{item} cannot be read ({type(error).__name__}: {reason}); it is damaged."
        ) from error
    for path, value in jax.tree.leaves_with_path(params):
        if not np.isfinite(value).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{item}: {name} holds values that are not finite.")
    return params


def _root(folder: epath.PathLike) -> epath.Path:
    """The checkpoint folder of a folder that may be one step of it."""
    folder = epath.Path(folder).expanduser().resolve()
    is_step = folder.name.isdigit() and folder.parent.name == STEPS_FOLDER
    return folder.parent.parent if is_step else folder


def step_folder(folder: epath.PathLike) -> epath.Path:
    """The newest complete step of a checkpoint folder; a step's folder is itself."""
    folder = epath.Path(folder).expanduser().resolve()
    if _root(folder) != folder:
        return folder
    steps_folder = folder / STEPS_FOLDER
    steps = list(steps_folder.iterdir()) if steps_folder.exists() else []
    # An unfinished step has another name while it is written, or, in a bucket, no
    # mark of success.
    complete = [
        step
        for step in steps
        if step.name.isdigit() and ocp.utils.is_checkpoint_finalized(step)
    ]
    if not complete:
        raise ValueError(f"{steps_folder} holds no complete checkpoint.")
    return max(complete, key=lambda step: int(step.name))


def _module_fields(module: nn.Module) -> dict[str, Any]:
    """A module's fields as JSON values."""
    fields = {}
    for field in dataclasses.fields(module):
        if field.name in ("parent", "name"):
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
