"""Where a network's parameters come from, group by group."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from eomt_jax.models.network import Network, ParameterGroup
from eomt_jax.training.state import param_shapes
from eomt_jax.trees import leaves_by_path

PyTree = Any


@dataclasses.dataclass(frozen=True)
class GroupReport:
    """The origins of one group's parameters, in numbers of parameters.

    Attributes:
      group: name of the group.
      loaded: taken from the file as they are.
      resampled: from the file, resized to another patch or image size.
      new: drawn at random.
    """

    group: str
    loaded: int = 0
    resampled: int = 0
    new: int = 0

    @property
    def total(self) -> int:
        return self.loaded + self.resampled + self.new


Report: TypeAlias = tuple[GroupReport, ...]


def report_groups(model: Network, loaded: PyTree, resampled: Collection[str]) -> Report:
    """Returns one row for each group of parameters that the network has.

    Groups of the backbone come first, from embeddings to the last norm.

    Args:
      model: the network.
      loaded: what of its parameters is loaded; the queries may be fewer, and NaN
        stands for new values.
      resampled: paths of those among them that are resized.
    """
    shapes = param_shapes(model)
    groups = leaves_by_path(model.parameter_groups(shapes).tree)
    order = {group.name: group for group in sorted(groups.values(), key=_place)}
    rows = {name: GroupReport(name) for name in order}
    given = _sizes(jax.tree.map(_without_gaps, loaded))
    for path, size in _sizes(shapes).items():
        name = groups[path].name
        kind = "resampled" if path in resampled else "loaded"
        num_given, row = given.get(path, 0), rows[name]
        counts = {kind: getattr(row, kind) + num_given}
        counts["new"] = row.new + size - num_given
        rows[name] = dataclasses.replace(row, **counts)
    return tuple(rows.values())


def _place(group: ParameterGroup) -> tuple[bool, int, str]:
    return group.depth is None, group.depth or 0, group.name


def format_report(report: Report, notes: Sequence[str] = ()) -> str:
    """Returns the report as an aligned table with totals, and the notes."""
    names = ("loaded", "resampled", "new", "total")
    sums = [sum(getattr(row, name) for row in report) for name in names]
    rows = [
        ["parameters", *names],
        *([row.group, *(f"{getattr(row, n):,}" for n in names)] for row in report),
        ["all", *(f"{total:,}" for total in sums)],
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join([*table, *notes])


def _without_gaps(array: Any) -> Any:
    has_gaps = isinstance(array, np.ndarray) and np.isnan(array.sum())
    return array[~np.isnan(array)] if has_gaps else array


def _sizes(tree: PyTree) -> dict[str, int]:
    return {path: leaf.size for path, leaf in leaves_by_path(tree).items()}
