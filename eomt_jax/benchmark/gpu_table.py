"""Writes the tables of docs/gpus.md: how many images of each recipe fit on which GPU.

  python -m eomt_jax.benchmark.gpu_table

Run it in the repository, with JAX's CUDA plugin installed. It compiles each network for
a few batch sizes, with and without remat, which takes minutes each, and keeps the
results in docs/gpus/. Then it fits a line to the compiler's numbers and writes the
tables. It may be stopped at any time and continues when it is run again; to compile a
network again, delete its file first. Recipes named as arguments are compiled alone.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from eomt_jax.benchmark.gpu_cards import CARDS
from eomt_jax.benchmark.gpu_points import (
    CHECKS,
    RECIPE_GROUPS,
    RecipeGroup,
    compile_point,
    find_result,
)
from eomt_jax.benchmark.gpu_target import usable_memory
from eomt_jax.benchmark.memory_line import MemoryLine, passes_for

_TABLE = pathlib.Path("docs/gpus.md")
_MARK = "<!-- written by eomt_jax.benchmark.gpu_table -->\n"

# One card of each size.
COLUMNS = {
    "16 GB": "rtx4080",
    "24 GB": "rtx4090",
    "40 GB": "a100_40gb",
    "80 GB": "h100",
    "141 GB": "h200",
}


PUBLISHED_BATCH = 16
# Larger batches are no faster, and the line is too far from the compiled batch sizes.
_MOST = 128


def main(recipes: Sequence[str]) -> int:
    """Compiles what is missing and writes the tables."""
    points = [point for group in RECIPE_GROUPS for point in group.points] + [*CHECKS]
    unknown = set(recipes) - {point.recipe for point in points}
    if unknown:
        print(f"error: no network of {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    failed = 0
    for point in points:
        if find_result(point) is None and (not recipes or point.recipe in recipes):
            failed += not compile_point(point)
            write_tables()
    write_tables()
    return min(failed, 1)


def write_tables() -> None:
    """Replaces the part of docs/gpus.md below its mark."""
    text, mark, _ = _TABLE.read_text().partition(_MARK)
    if not mark:
        raise ValueError(f"{_TABLE} has no line {_MARK.strip()}")
    _TABLE.write_text(text + mark + format_tables())


def format_tables() -> str:
    """Returns Markdown of all results that are there."""
    parts = ["", "## Training", "", *_training(), "", "## Prediction", ""]
    parts += _prediction()
    rest = [group.recipe for group in RECIPE_GROUPS if not _is_complete(group)]
    if rest:
        names = ", ".join(f"`{name}`" for name in rest)
        parts += ["", f"Not compiled yet: {names}."]
    return "\n".join(parts) + "\n"


def _is_complete(group: RecipeGroup) -> bool:
    return all(find_result(point) for point in group.points)


def _heads(first: Sequence[str]) -> list[str]:
    heads = [*first, *COLUMNS]
    return [_cells(heads), "|---" * len(heads) + "|"]


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _training() -> Iterator[str]:
    yield from _heads(("recipe", "remat", "always", "an image"))
    for group in filter(_is_complete, RECIPE_GROUPS):
        for remat in (False, True):
            results = _results(group, "train", remat=remat)
            line = _line(results)
            cells = [_names(group), "on" if remat else "off", *_gigabytes(line)]
            cells += [
                _training_cell(line, results[0], card) for card in COLUMNS.values()
            ]
            yield _cells(cells)


def _training_cell(line: MemoryLine, result: Any, card: str) -> str:
    available = usable_memory(CARDS[card])
    passes = passes_for(
        PUBLISHED_BATCH,
        line,
        available,
        gradients=float(result["held"]["parameters"]),
        per_input=result["held"]["batch"] / result["batch"],
    )
    largest = line.largest_batch(available)
    return f"{_count(largest)} ({passes or '–'})" if largest else "–"


def _count(images: int) -> str:
    """Returns a number of images as the text of a cell."""
    if images > _MOST:
        return f"{_MOST}+"
    return str(images) if images else "–"


def _prediction() -> Iterator[str]:
    yield from _heads(("recipe", "always", "an image"))
    for group in filter(_is_complete, RECIPE_GROUPS):
        line = _line(_results(group, "eval"), without=("optimizer",))
        cells = [_names(group), *_gigabytes(line)]
        for card in COLUMNS.values():
            cells.append(_count(line.largest_batch(usable_memory(CARDS[card]))))
        yield _cells(cells)


def _results(group: RecipeGroup, program: str, *, remat: bool = False) -> list[Any]:
    return [
        find_result(point)
        for point in group.points
        if (point.program, point.remat) == (program, remat)
    ]


def _line(results: Sequence[Any], without: Sequence[str] = ()) -> MemoryLine:
    """Returns the memory of the programs in `results`, less the bytes in `without`."""
    return MemoryLine.through(
        [
            (one["batch"], one["total"] - sum(one["held"][name] for name in without))
            for one in results
        ]
    )


def _names(group: RecipeGroup) -> str:
    return ", ".join(f"`{name}`" for name in (group.recipe, *group.same))


def _gigabytes(line: MemoryLine) -> list[str]:
    return [f"{size / 1e9:.2f} GB" for size in (line.fixed, line.per_image)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
