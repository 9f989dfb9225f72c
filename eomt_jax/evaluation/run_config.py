"""Takes the fields that a score depends on from the config of a training."""

from collections.abc import Collection

from etils import epath
from ml_collections import ConfigDict

from eomt_jax import json_files
from eomt_jax.options import fields_of

CONFIG_FILE = "config.json"

# Scores depend on these fields, and the weights don't hold them.
FIELDS = (
    "image_size",
    "model.dtype",
    "dataset.name",
    "dataset.data_dir",
    "dataset.eval_split",
    "eval.task",
)


def take_from_run(
    config: ConfigDict, workdir: epath.PathLike, *, given: Collection[str] = ()
) -> list[str]:
    """Sets the FIELDS of a recipe to the values of a training.

    Args:
      config: the recipe; it is changed in place.
      workdir: folder of the training; one without a config.json changes nothing.
      given: dotted names of fields that keep their values.

    Returns:
      The changes, each as name = value.

    Raises:
      ValueError: there is no such folder, or its config.json cannot be read.
    """
    folder = epath.Path(workdir).expanduser()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    path = folder / CONFIG_FILE
    if not path.exists():
        return []
    try:
        saved = fields_of(json_files.read_object(path))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Give what the run was trained with by "
            "flags, and remove the file."
        ) from error
    changed, current = [], fields_of(config)
    for name in FIELDS:
        value = saved.get(name)
        if value is None or name in given or value == current[name]:
            continue
        try:
            config.update_from_flattened_dict({name: value})
        except TypeError as error:
            raise ValueError(f"{path}: {name} = {value!r}: {error}") from error
        changed.append(f"{name} = {value!r}")
    return changed
