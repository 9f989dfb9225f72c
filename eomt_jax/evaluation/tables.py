"""Turns an evaluation's numbers into JSON values, text and files."""

import json
import math
import re
from typing import Any

import numpy as np
from etils import epath

from eomt_jax.regular_files import check_regular
from eomt_jax.task_registry import get_task
from eomt_jax.types import DatasetInfo

Results = dict[str, Any]

GROUPS = ("all", "things", "stuff")

# Headings and keys of the metrics of confidence, by what it tells apart.
_CONFIDENCE = {
    "confidence, right pixels": (
        *(("ECE", "ece"), ("AUROC", "auroc"), ("FPR@95", "fpr95")),
        *(("AUPR", "aupr_success"), ("of wrong", "aupr_error")),
    ),
    "confidence, invalid pixels": (
        *(("AUROC", "auroc_invalid"), ("AUPRC", "auprc_invalid")),
        ("FPR@95", "fpr95_invalid"),
    ),
}


def summarize(task: str, computed: dict[str, Any], info: DatasetInfo) -> Results:
    """Returns the results of a metric as plain lists, dictionaries and numbers.

    Args:
      task: the task of the metric.
      computed: means by group, as all, things and stuff; per_class, an array [K] of each
        number; and confusion, confidence and reliability, if there are any.
      info: the class table.

    Returns:
      task; the means by group, as computed; per_class: a dictionary for each class in
      label order, with its id (which predictions have), name, is_thing and numbers; and
      confusion for the semantic task; and confidence and reliability, as computed. None
      stands for NaN, which JSON doesn't have.
    """
    results: Results = {"task": task}
    for group in GROUPS:
        if group in computed:
            means = computed[group].items()
            results[group] = {name: _plain(value) for name, value in means}
    results["per_class"] = [
        {
            "id": row.id,
            "name": row.name,
            "is_thing": row.is_thing,
            **{name: _plain(x[i]) for name, x in computed["per_class"].items()},
        }
        for i, row in enumerate(info.classes)
    ]
    if "confusion" in computed:
        results["confusion"] = computed["confusion"].tolist()
    extra = ("confidence", "reliability")
    return results | {name: computed[name] for name in extra if name in computed}


def _plain(value: Any) -> Any:
    if isinstance(value, (int, np.integer)):
        return int(value)
    return None if math.isnan(value) else float(value)


def headline(results: Results) -> tuple[str, float | None]:
    """Returns the name and value of the task's main number, such as PQ, over all."""
    name, key = get_task(results["task"]).mean_columns[0]
    return name, results["all"][key]


def format_table(results: Results, *, per_class: bool = True) -> str:
    """Returns the results as text: classes that occur, best first, and the means."""
    task = get_task(results["task"])
    blocks = []
    if per_class and task.class_columns:
        columns = task.class_columns
        best = columns[0][1]
        rows = [row for row in results["per_class"] if row[best] is not None]
        rows.sort(key=lambda row: -row[best])
        labels = [row["name"][:21] for row in rows]
        if "things" in results:
            kinds = ("thing" if row["is_thing"] else "stuff" for row in rows)
            labels = [f"{label:<22}{kind}" for label, kind in zip(labels, kinds)]
        blocks += [*_format_rows(labels, rows, columns), ""]
    columns = (*task.mean_columns, ("classes", "num_classes"))
    groups = [group for group in GROUPS if group in results]
    blocks += _format_rows(groups, [results[group] for group in groups], columns)
    measured = results.get("confidence", {})
    for label, known in _CONFIDENCE.items():
        columns = tuple(column for column in known if column[1] in measured)
        if columns:
            blocks += ["", *_format_rows([label], [measured], columns)]
    speed = results["images_per_second"]
    return "\n".join([*blocks, f"{results['num_images']} images, {speed:.1f} a second"])


def _format_rows(
    labels: list[str], rows: list[Results], columns: tuple[tuple[str, str], ...]
) -> list[str]:
    """Returns lines of right-aligned columns under their headings."""
    cells = [[heading for heading, _ in columns]]
    cells += [[_format_number(row[name]) for _, name in columns] for row in rows]
    widths = [max(6, *map(len, column)) + 2 for column in zip(*cells)]
    return [
        f"{label:<28}" + "".join(f"{x:>{width}}" for x, width in zip(row, widths))
        for label, row in zip(["", *labels], cells)
    ]


def _format_number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def check_replaceable(path: epath.PathLike, dataset: str, split: str) -> None:
    """Raises ValueError if `path` exists and holds no results of the same split.

    Args:
      path: path of a JSON file of results.
      dataset: name of the prepared dataset.
      split: name of the split.
    """
    path = epath.Path(path)
    if not path.exists():
        return
    check_regular(path)
    try:
        found = json.loads(path.read_text())
        there = (found["dataset"], found["split"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{path} is there and holds no evaluation: give another --out, or remove it."
        ) from None
    if there != (dataset, split):
        raise ValueError(
            f"{path} holds the evaluation of {there[1]!r} of dataset {there[0]!r}, and "
            f"this one is of {split!r} of {dataset!r}: give another --out, or remove it."
        )


def write_results(results: Results, path: epath.PathLike) -> None:
    """Writes JSON; a reader finds either the old file or the whole new one."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    text = json.dumps(results, indent=2, allow_nan=False)
    # Each row of the confusion matrix is written in one line.
    text = re.sub(r"\[[\d,\s]+\]", lambda row: re.sub(r"\s+", " ", row[0]), text)
    temporary.write_text(text + "\n")
    temporary.replace(path)
