"""The folder of a run on a user's own photographs, and what it remembers."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from eomt_jax import json_files
from eomt_jax.datasets.options import describe_options
from eomt_jax.datasets.prepare import FORMATS
from eomt_jax.datasets.splits import parse_split_paths
from eomt_jax.own_data.places import Recognized
from eomt_jax.own_data.weights import Weights

PLAN_FILE = "eomt_train.json"
CLASSES_FILE = "classes.json"
DATA_FOLDER = "data"


@dataclasses.dataclass
class Plan:
    """Choices that a run was begun with; the same command goes on with them.

    Attributes:
      data: what the photographs and labels were taken for.
      contents: of the data's files, as text.
      task: what is scored; "" for the data's own.
      choices: values of `choices.OPTIONS`; empty until they are made.
      weights: None until they are chosen.
    """

    data: Recognized
    contents: dict[str, str]
    task: str = ""
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: Weights | None = None


def check_free(out: epath.Path, texts: Sequence[str] = ()) -> None:
    """Raises ValueError if `out` is a file, or a folder with something else in it.

    It also raises one if `out` lies in a folder of the user's, whose pictures would then
    be more the next time.

    Args:
      out: folder of the run.
      texts: paths of photographs and labels, as the user gives them.
    """
    place = pathlib.Path(out).resolve()
    for path in (p for text in texts for p in parse_split_paths(text).values()):
        folder = pathlib.Path(path).expanduser().resolve()
        if folder == place or folder in place.parents:
            raise ValueError(f"--out={out} lies in {path}: name a folder outside of it")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file: name a new folder")
    is_run = (out / PLAN_FILE).exists()
    if out.exists() and not is_run and any(out.iterdir()):
        raise ValueError(
            f"--out={out} holds something else than a training by eomt-train: name a new "
            "folder"
        )


def read_plan(out: epath.Path) -> Plan | None:
    """Returns the plan of the run in `out`; None where there is none.

    Raises:
      ValueError: the file is damaged.
    """
    path = out / PLAN_FILE
    if not path.exists():
        return None
    fields = json_files.read_object(path)
    try:
        fields["data"] = Recognized(**fields["data"])
        if fields["weights"]:
            weights = fields["weights"]
            names = tuple(weights.pop("class_names"))
            fields["weights"] = Weights(**weights, class_names=names)
        return Plan(**fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no plan of a training ({error!r}): name another --out"
        ) from error


def write_plan(out: epath.Path, plan: Plan) -> None:
    """Writes the plan; a reader finds the old one or the whole new one."""
    out.mkdir(parents=True, exist_ok=True)
    unfinished = out / f".{PLAN_FILE}.unfinished"
    unfinished.write_text(json.dumps(dataclasses.asdict(plan), indent=2) + "\n")
    unfinished.replace(out / PLAN_FILE)


def contents(data: Recognized) -> dict[str, str]:
    """Returns the options of the data's builder as text, files by their contents."""
    return describe_options(FORMATS[data.format], data.options)


@contextlib.contextmanager
def removed_on_error(out: epath.Path) -> Iterator[None]:
    """Removes the plan and empty folders again if the data are refused."""
    try:
        yield
    except ValueError:
        data = out / DATA_FOLDER
        if not data.exists() or not any(data.iterdir()):
            for name in (PLAN_FILE, CLASSES_FILE):
                (out / name).unlink(missing_ok=True)
            for folder in (data, out):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # which fails if something is in it
        raise
