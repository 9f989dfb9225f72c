"""Describes a network for the Hugging Face hub: the README of its repository."""

import dataclasses
import posixpath
from typing import Any

from etils import epath

from eomt_jax import json_files
from eomt_jax.evaluation.run_config import CONFIG_FILE
from eomt_jax.evaluation.tables import format_table
from eomt_jax.options import fields_of, list_options
from eomt_jax.training.options import RunOptions
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.formats import hub
from eomt_jax.weights.wording import listed

PICTURE = "example.png"

# Fields of one machine, which say nothing of how a network was trained.
_OF_THE_MACHINE = (
    *("compilation_cache", "dataset.data_dir", "dataset.num_", "checkpoint."),
    *("logging.", "mesh.", "eval.batch_size"),
)
# Tables of more classes are left out.
_MAX_CLASSES = 60


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The training that a network comes from.

    Attributes:
      folder: its work directory.
      step: the step whose weights are taken.
    """

    folder: epath.Path
    step: int

    @classmethod
    def of(cls, step_folder: epath.Path) -> "TrainedRun | None":
        """Returns the run that a step's folder belongs to; None if none wrote it."""
        folder = step_folder.parent.parent
        if not (folder / CONFIG_FILE).exists():
            return None
        return cls(folder, int(step_folder.name))

    @property
    def picture(self) -> epath.Path | None:
        """The picture drawn at the step, or the newest one."""
        return self._at_step("pictures", ".png")

    @property
    def evaluation(self) -> epath.Path | None:
        """The evaluation made at the step, or the newest one."""
        return self._at_step("evaluations", ".json")

    def _at_step(self, name: str, suffix: str) -> epath.Path | None:
        files = sorted((self.folder / name).glob(f"*{suffix}"))
        files = [file for file in files if file.stem.isdigit()]
        same = [file for file in files if int(file.stem) == self.step]
        return (same or files or [None])[-1]


def model_card(
    name: str,
    description: str,
    *,
    info: DatasetInfo | None,
    run: TrainedRun | None,
    license: str,
    is_backbone: bool,
    for_transformers: bool,
    has_picture: bool,
) -> str:
    """Returns the text of a README with the hub's metadata.

    Args:
      name: the repository, org/name.
      description: a sentence on the network.
      info: its classes.
      run: the training that it comes from, if there is one.
      license: the hub's identifier of a licence, "" if none is stated.
      is_backbone: whether it is a ViT without queries.
      for_transformers: whether transformers can load it too.
      has_picture: whether the repository holds PICTURE.

    Raises:
      ValueError: a file of the run can't be read.
    """
    from huggingface_hub import ModelCardData

    config = fields_of(json_files.read_object(run.folder / CONFIG_FILE)) if run else {}
    start = str(config.get("init.checkpoint") or config.get("init.backbone") or "")
    base = None if epath.Path(start).exists() else hub.NAME.fullmatch(start)
    metadata = ModelCardData(
        library_name="transformers" if for_transformers else "eomt_jax",
        pipeline_tag="image-feature-extraction"
        if is_backbone
        else "image-segmentation",
        tags=["eomt", "eomt_jax", "jax"],
        license=license or None,
        base_model=base["name"] if base else None,
    )
    sections = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {name.partition('/')[2]}",
        description,
    ]
    if has_picture:
        sections.append(
            "Its predictions on photographs that it was evaluated on, beside their "
            f"targets:\n\n![Predictions and targets]({PICTURE})"
        )
    sections += ["## How to load it", _usage(name, is_backbone, for_transformers)]
    if info is not None:
        sections += ["## Data", _data(info)]
    if run is not None:
        sections += ["## Training", _training(run, config)]
        if run.evaluation is not None:
            sections += ["## Scores", _scores(run.evaluation, config)]
    stated = (
        f"The weights are under the licence {license}."
        if license
        else "Whoever uploaded the weights has not stated a licence."
    )
    sections.append(
        f"## Licence\n\n{stated} The photographs that they were trained on, and weights "
        "that the training started from, have licences of their own."
    )
    return "\n\n".join(sections) + "\n"


def _usage(name: str, is_backbone: bool, for_transformers: bool) -> str:
    if is_backbone:
        call = (
            "import eomt_jax\n\n"
            f'vit, params = eomt_jax.load_backbone("{name}")\n'
            'tokens = vit.apply({"params": params}, images)  # uint8 [B, H, W, 3]'
        )
    else:
        call = (
            "from eomt_jax import Segmenter\n\n"
            f'segmenter = Segmenter.from_checkpoint("{name}")\n'
            'result = segmenter("photo.jpg")\n'
            "for segment in result.segments:\n"
            "    print(segment.class_name, segment.score, segment.area)"
        )
    text = f"With eomt_jax:\n\n```python\n{call}\n```"
    if not is_backbone:
        text += f"\n\n```\neomt-predict PHOTOS --checkpoint={name}\n```"
    if for_transformers:
        text += "\n\ntransformers' `EomtForUniversalSegmentation` loads it too."
    return text


def _data(info: DatasetInfo) -> str:
    sizes = ", ".join(f"{count:,} in {k}" for k, count in info.num_examples.items())
    names = listed([row.name for row in info.classes])
    photographs = f"Photographs: {sizes}. " if sizes else ""
    return (
        f"`{info.name}`, annotated for {info.task} segmentation. {photographs}"
        f"{info.num_classes} classes: {names}."
    )


def _training(run: TrainedRun, config: dict[str, Any]) -> str:
    """Returns the length of the training, and the fields that aren't the defaults."""
    lines = []
    for name, field in list_options(RunOptions):
        value = config.get(name, field.default)
        default = list(field.default) if isinstance(field.default, tuple) else None
        if value in (field.default, default) or name.startswith(_OF_THE_MACHINE):
            continue
        is_path = name.startswith("init.") and isinstance(value, str)
        if is_path and not hub.NAME.fullmatch(value):
            value = posixpath.basename(value.rstrip("/"))  # no folders of the machine
        lines.append(f"{name} = {value!r}")
    text = f"It was trained for {run.step:,} steps by eomt_jax."
    if not lines:
        return f"{text} All fields of the recipe are the defaults."
    fields = "\n".join(lines)
    return (
        f"{text} Fields of the recipe that aren't the defaults:\n\n```\n{fields}\n```"
    )


def _scores(path: epath.Path, config: dict[str, Any]) -> str:
    results = json_files.read_object(path)
    try:
        few = len(results["per_class"]) <= _MAX_CLASSES
        table = format_table(results, per_class=few).rpartition("\n")[0]
        count = results["num_images"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds no evaluation as a training writes it: {error!r}"
        ) from error
    split = config.get("dataset.eval_split", "validation")
    return (
        f"On {count:,} photographs of {split}, after step {int(path.stem):,}, in "
        f"percent:\n\n```\n{table}\n```"
    )
