"""Compares runs by their folders: fields of the recipe, scores, speed, curves."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from eomt_jax import json_files
from eomt_jax.evaluation.run_config import CONFIG_FILE
from eomt_jax.options import fields_of, list_options
from eomt_jax.pictures.curves import COLORS, Line, Panel, draw_curves
from eomt_jax.training.options import RunOptions
from eomt_jax.training.reporting.recorded import Record, read_records, values_of

MAX_RUNS = len(COLORS)

_SCORE = "eval/"
_ABSENT = "–"
# Letters of a value, and of a name above a column.
_MAX_VALUE, _MAX_NAME = 40, 32
# Curves of the loss are means over this share of a run's records.
_SMOOTHED = 0.05


@dataclasses.dataclass(frozen=True)
class Run:
    """A training, as its folder shows it.

    Attributes:
      name: the folder, as it was given.
      fields: values of the recipe by their dotted names; none if they were not kept.
      records: those of metrics.jsonl.
    """

    name: str
    fields: dict[str, Any]
    records: list[Record]

    @property
    def scores(self) -> list[str]:
        """Names of the evaluations' numbers, the one that runs are ranked by first."""
        names = (name for record in self.records for name in record)
        return list(dict.fromkeys(name for name in names if name.startswith(_SCORE)))


def read_run(folder: epath.PathLike) -> Run:
    """Reads the work directory of a training.

    Raises:
      ValueError: the folder is none of a run, or the run has not recorded anything.
    """
    path = epath.Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(f"there is no folder {folder}")
    config = path / CONFIG_FILE
    try:
        records = read_records(path)
    except ValueError:
        if config.exists():
            records = []
        else:
            raise ValueError(
                f"{folder} is no run: it has neither metrics.jsonl nor {CONFIG_FILE}; "
                "give the --workdir of a training"
            ) from None
    if not records:
        raise ValueError(
            f"{folder} has recorded no step yet; config.logging.every_steps says how "
            "often a run records"
        )
    fields = fields_of(json_files.read_object(config)) if config.exists() else {}
    return Run(str(folder).rstrip("/"), fields, records)


def describe(runs: Sequence[Run]) -> str:
    """Returns tables of the fields that differ and of the results, and notes."""
    blocks = []
    known = [run for run in runs if run.fields]
    names = dict.fromkeys(name for run in known for name in run.fields)
    # A field that is younger than a run had the effect of its default.
    defaults = {name: field.default for name, field in list_options(RunOptions)}
    rows = []
    for name in names:
        values = [
            _shown(run.fields.get(name, defaults.get(name))) if run.fields else _ABSENT
            for run in runs
        ]
        if len(set(values) - {_ABSENT}) > 1:
            rows.append((name, values))
    if rows:
        blocks.append(_table("fields that differ", runs, rows))
    elif len(known) > 1:
        blocks.append("All fields of these recipes are equal.")
    blocks += [
        f"{run.name} has no {CONFIG_FILE}, so its fields are not compared."
        for run in runs
        if not run.fields
    ]
    rows = [
        ("steps", [f"{run.records[-1]['step']:,}" for run in runs]),
        ("loss, last tenth", [_number(_last_loss(run), 3) for run in runs]),
        ("seconds per step", [_number(_seconds_per_step(run), 3) for run in runs]),
    ]
    for name in dict.fromkeys(name for run in runs for name in run.scores):
        cells = [_last_and_best(run, name) for run in runs]
        title = name.removeprefix(_SCORE)
        rows.append((f"{title}, last", [last for last, _ in cells]))
        if any(run.scores[:1] == [name] for run in runs):
            rows.append((f"{title}, best", [best for _, best in cells]))
    blocks.append(_table("results (after step)", runs, rows))
    return "\n\n".join([*blocks, *_notes(runs)])


def _notes(runs: Sequence[Run]) -> list[str]:
    """Returns sentences about runs whose scores can't be compared with the others'."""
    notes = [
        f"{run.name} has made no evaluation (config.eval.every_steps), so it has no "
        "scores."
        for run in runs
        if not run.scores
    ]
    scored = [run for run in runs if run.scores]
    if len({run.scores[0] for run in scored}) > 1:
        main = "; ".join(
            f"{run.name} by {run.scores[0].removeprefix(_SCORE)}" for run in scored
        )
        notes.append(
            f"These runs are of different tasks, whose scores can't be compared: {main}."
        )
    elif scored:
        for name in ("dataset.name", "dataset.eval_split"):
            known = [run for run in scored if name in run.fields]
            values = dict.fromkeys(str(run.fields[name]) for run in known)
            if len(values) > 1:
                notes.append(
                    f"Scores are of different photographs: {name} is "
                    f"{' or '.join(values)}."
                )
    return notes


def draw(runs: Sequence[Run]) -> UInt8[np.ndarray, "H W 3"] | None:
    """Draws the loss, and each task's main score, over the steps.

    Returns:
      The picture; None if no run has recorded a loss or a score.
    """
    panels = []
    smooth = [line for run in runs if (line := _loss_line(run)) is not None]
    if smooth:
        panels.append(Panel("Loss, smoothed", smooth))
    for name in dict.fromkeys(run.scores[0] for run in runs if run.scores):
        lines = []
        for run in runs:
            steps, values = _finite(run, name)
            if len(steps):
                lines.append(Line(run.name, steps.astype(float), values))
        if lines:
            panels.append(Panel(f"Score: {name.removeprefix(_SCORE)}", lines))
    return draw_curves(panels, [run.name for run in runs]) if panels else None


def _loss_line(run: Run) -> Line | None:
    steps, values = _finite(run, "loss")
    if not len(steps):
        return None
    window = max(1, round(len(steps) * _SMOOTHED))
    means = np.convolve(values, np.full(window, 1 / window), mode="valid")
    x = steps.astype(float)
    return Line(run.name, x[window - 1 :], means, pale_steps=x, pale_values=values)


def _finite(run: Run, metric: str) -> tuple[np.ndarray, np.ndarray]:
    steps, values = values_of(run.records, metric)
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _last_loss(run: Run) -> float | None:
    _, values = _finite(run, "loss")
    return float(values[-max(1, len(values) // 10) :].mean()) if len(values) else None


def _seconds_per_step(run: Run) -> float | None:
    """Returns the median over the records, which a slow start or a pause hardly moves."""
    _, speeds = _finite(run, "images_per_second")
    size = run.fields.get("batch_size")
    if not isinstance(size, int) or not len(speeds):
        return None
    return size / statistics.median(speeds.tolist())


def _last_and_best(run: Run, name: str) -> tuple[str, str]:
    steps, values = _finite(run, name)
    if not len(steps):
        return _ABSENT, _ABSENT
    cells = [f"{values[i]:.1f} ({steps[i]:,})" for i in (-1, int(values.argmax()))]
    return cells[0], cells[1]


def _number(value: float | None, digits: int) -> str:
    return _ABSENT if value is None else f"{value:.{digits}g}"


def _shown(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 2]} …"


def _table(
    title: str, runs: Sequence[Run], rows: Sequence[tuple[str, Sequence[str]]]
) -> str:
    """Returns lines of a title and a column for each run, right-aligned."""
    names = [
        run.name if len(run.name) <= _MAX_NAME else f"…{run.name[1 - _MAX_NAME :]}"
        for run in runs
    ]
    lines = [(title, names), *rows]
    first = max(len(label) for label, _ in lines)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in lines))]
    return "\n".join(
        f"{label:<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths))
        for label, cells in lines
    )
