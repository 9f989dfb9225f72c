"""Scores a training by `train` on the photographs it held out, or on others."""

import tempfile

from etils import epath

from eomt_jax.datasets.prepare import prepare
from eomt_jax.evaluation import run_config, scoring
from eomt_jax.evaluation.tables import Results
from eomt_jax.own_data import run_folder
from eomt_jax.own_data.choices import DATA_OPTIONS
from eomt_jax.own_data.notes import notes_in_lines
from eomt_jax.own_data.places import Paths, Recognized
from eomt_jax.own_data.recognize import recognize
from eomt_jax.own_data.run_folder import Plan
from eomt_jax.training.options import default_config

_OTHERS = "other_photographs"


def evaluate(
    out: epath.PathLike,
    data: Paths = (),
    *,
    task: str = "",
    split: str = "",
    num_images: int = 0,
    num_pictures: int = 4,
) -> Results:
    """Measures how good the best checkpoint of a training by `train` is.

    The scores are written as JSON into `out`, and pictures into a folder beside it.

    Args:
      out: folder of the training.
      data: other photographs and labels with the same classes, see
        `recognize.recognize`; by default those of the training.
      task: what is scored; that of the training by default.
      split: "train" for the photographs that were trained on; by default those held
        out, or all of `data`.
      num_images: how many photographs are scored, the first ones; 0 for all.
      num_pictures: how many predictions are drawn beside the truth.

    Returns:
      The results of `scoring.evaluate_checkpoint`.

    Raises:
      ValueError: `out` holds no training, the data are of another kind or have other
        classes, or the labels can't measure the task.
    """
    folder = epath.Path(out).expanduser()
    plan = run_folder.read_plan(folder)
    if plan is None or not plan.choices:
        raise ValueError(f"{folder} holds no training by eomt_jax.train or eomt-train")
    config = default_config()
    run_config.take_from_run(config, folder)
    fields = {
        "dataset.data_dir": str(folder / run_folder.DATA_FOLDER),
        "eval.batch_size": plan.choices["batch_size"],
        "eval.num_images": num_images,
    }
    with notes_in_lines(), tempfile.TemporaryDirectory() as temporary:
        if data:
            found = _recognize_alike(data, plan, folder)
            options = {**found.options, "validation": 0}
            prepare(_OTHERS, temporary, builder=found.format, **options)
            fields |= {"dataset.name": _OTHERS, "dataset.data_dir": temporary}
            split = split or "train"
        config.update_from_flattened_dict(fields)
        return scoring.evaluate_checkpoint(
            config, folder, task=task, split=split, num_pictures=num_pictures
        )


def _recognize_alike(data: Paths, plan: Plan, folder: epath.Path) -> Recognized:
    """Recognises data with the task, classes and options of the training's."""
    options = plan.data.options
    classes = options.get("classes", "")
    own = folder / run_folder.CLASSES_FILE
    has_masks = plan.data.format in ("mask_folder", "instance_folder")
    return recognize(
        data,
        task=plan.data.task if has_masks else "",
        classes=own if own.exists() else classes,
        **{name: value for name, value in options.items() if name in DATA_OPTIONS},
    )
