"""Looks at PNGs of masks, and decides whether their numbers are classes or objects.

Legend: H W pixels.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import ndimage

from eomt_jax.datasets.mask_pngs import Pixels

MAX_CLASSES = 64
"""More values or colours than this, over all masks, are no classes without a list."""

_MAX_OBJECTS = 1000  # of one mask; a photograph that was saved as PNG has more
_ONE_PIECE = 0.9  # share of the objects; some are cut in two by what is before them


@dataclasses.dataclass(frozen=True)
class Survey:
    """The contents of a folder of masks.

    Attributes:
      values: all numbers that occur; of masks in colours, all colours 0xRRGGBB.
      has_colors: whether the values are colours.
      is_numbered: whether each mask numbers its objects: 1, 2, 3, … without a gap, as
        many as it shows, which is not the same number in all, and each in one piece.
    """

    values: frozenset[int]
    has_colors: bool
    is_numbered: bool


def survey(masks: Iterable[tuple[str, Pixels]]) -> Survey:
    """Looks at masks, given with their files' names.

    Raises:
      ValueError: a mask has as many values as a photograph, or some masks have colours
        and others numbers.
    """
    values: set[int] = set()
    numbers: list[int] = []  # of objects of each mask, if all are numbered
    num_objects = num_pieces_of_one = 0
    kinds: dict[bool, str] = {}
    is_numbered = True
    for file, pixels in masks:
        has_colors = pixels.indices is None and not pixels.is_grey_in_colors
        kinds.setdefault(has_colors, file)
        if len(kinds) > 1:
            raise ValueError(
                f"{kinds[True]} has colours and {kinds[False]} numbers: save all masks "
                "in one of the two ways, or give --classes with a list of colours"
            )
        array = pixels.colors() if has_colors else pixels.values(file=file)
        found = np.unique(array)
        if len(found) > _MAX_OBJECTS:
            raise ValueError(
                f"{file} has {len(found):,} different values, as a photograph has and no "
                "mask: give the folder of the masks as the second argument"
            )
        values.update(found.tolist())
        objects = found[found > 0]
        is_numbered &= not has_colors
        is_numbered &= objects.tolist() == list(range(1, len(objects) + 1))
        if is_numbered:
            numbers.append(len(objects))
            num_objects += len(objects)
            num_pieces_of_one += sum(_is_one_piece(array == i) for i in objects)
    differ = len(set(numbers)) > 1 and max(numbers) > 1
    in_pieces = num_pieces_of_one >= _ONE_PIECE * num_objects
    return Survey(
        values=frozenset(values),
        has_colors=True in kinds,
        is_numbered=is_numbered and differ and in_pieces,
    )


def decide_task(found: Survey, *, task: str = "", num_listed: int = 0) -> str:
    """Returns "semantic" where masks hold classes and "instance" where objects.

    Args:
      found: what is in the masks.
      task: the one that the user gives, or "".
      num_listed: names in the user's class list; 0 without one.

    Raises:
      ValueError: masks give no such task.
    """
    if task in ("semantic", "instance"):
        return task
    if task:
        raise ValueError(
            f"masks of classes or of objects can't give the task {task!r}: leave it out, "
            "or give COCO's panoptic JSON with its PNGs"
        )
    if num_listed > 1:
        return "semantic"
    if num_listed == 1 or found.is_numbered:
        return "instance"
    return "instance" if len(found.values) > MAX_CLASSES else "semantic"


def name_classes(found: Survey) -> list[dict[str, object]]:
    """Returns the rows of a class list for masks of classes that come without one.

    Where masks hold other values beside 255, that is taken for pixels of no class.
    """
    values = sorted(found.values)
    if found.has_colors:
        return [
            {
                "id": i,
                "name": f"color_{color:06x}",
                "color": [color >> 16, color >> 8 & 255, color & 255],
            }
            for i, color in enumerate(values)
        ]
    if len(values) == 2 and values[0] == 0:
        return [
            {"id": 0, "name": "background"},
            {"id": values[1], "name": "foreground"},
        ]
    return [{"id": v, "name": f"class_{v}"} for v in values if v != 255]


def free_value(ids: Iterable[int]) -> int:
    """Returns the value of pixels of no class: 255, or the largest that no class has."""
    taken = set(ids)
    return next(v for v in (255, *range(65_535, 0, -1)) if v not in taken)


def _is_one_piece(mask: np.ndarray) -> bool:
    pieces: Any = ndimage.label(mask, structure=np.ones((3, 3)))
    return pieces[1] == 1
