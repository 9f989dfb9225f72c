"""Sheets of photographs beside what was predicted and what was wanted.

Legend: H W pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from eomt_jax.pictures.name_plates import load_font
from eomt_jax.pictures.overlays import draw_segmentation, resize_image
from eomt_jax.pipeline.samples import Source, load
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.task_registry import get_task
from eomt_jax.types import Batch, DatasetInfo

_INK = (32, 35, 42)
_PAPER = (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Picture:
    """One row of a comparison, in host memory.

    Attributes:
      image: the photograph, RGB.
      segmentations: of the photograph's size, for each panel beside it.
      draw: makes a panel, called as draw_segmentation is.
    """

    image: UInt8[np.ndarray, "H W 3"]
    segmentations: Sequence[Segmentation]
    draw: Callable[..., np.ndarray] = draw_segmentation


def draw_comparison(
    pictures: Sequence[Picture],
    info: DatasetInfo,
    *,
    titles: Sequence[str] = ("prediction", "target", "image"),
    panel: int = 420,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws photographs below each other, each after its segmentations.

    Args:
      pictures: a row each.
      info: the class table.
      titles: over the columns; the last is the photograph's.
      panel: long side of each panel, in pixels.
    """
    rows = []
    for picture in pictures:
        cells = [
            picture.draw(picture.image, segmentation, info, long_side=panel)
            for segmentation in picture.segmentations
        ]
        rows.append([*cells, resize_image(picture.image, cells[0].shape[:2])])

    gap, header = max(8, panel // 40), max(24, panel // 12)
    width = max(cell.shape[1] for row in rows for cell in row)
    total_width = gap + len(titles) * (width + gap)
    total_height = header + sum(row[0].shape[0] + gap for row in rows)
    sheet = Image.new("RGB", (total_width, total_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = load_font(max(13, panel // 22))
    for column, title in enumerate(titles):
        center = gap + column * (width + gap) + width / 2
        draw.text((center, header / 2), title, _INK, font, anchor="mm")
    top = header
    for row in rows:
        for column, cell in enumerate(row):
            left = gap + column * (width + gap) + (width - cell.shape[1]) // 2
            sheet.paste(Image.fromarray(cell), (left, top))
        top += row[0].shape[0] + gap
    return np.asarray(sheet)


def evaluation_pictures(
    batch: Batch,
    prediction: Any,
    source: Source,
    *,
    task: str,
    max_pictures: int,
    min_score: float = 0.3,
) -> list[Picture]:
    """Returns rows for draw_comparison: what was predicted, what was wanted.

    Photographs and targets are those of the prepared dataset, so that they are sharp
    and there for every task. Rows that only fill up the batch are left out.

    Args:
      batch: of an evaluation, in host memory (jax.device_get).
      prediction: for this batch, in host memory.
      source: the split that the batch comes from.
      task: that the prediction is of.
      max_pictures: at most so many, the first ones.
      min_score: instances that score less are not drawn.
    """
    pictures, chosen = [], get_task(task)
    for row in np.flatnonzero(batch.valid)[:max_pictures].tolist():
        record, image = load(source, int(batch.example_index[row]))
        predicted = chosen.segmentation(
            prediction, row, record.size, min_score=min_score
        )
        panels = [predicted, chosen.target(record)]
        pictures.append(Picture(np.asarray(image), panels, chosen.draw))
    return pictures


def training_pictures(batch: Batch, *, max_pictures: int) -> list[Picture]:
    """Returns rows for draw_comparison: what the network sees and is to learn."""
    images = np.asarray(batch.image)[:max_pictures]
    _, height, width, _ = images.shape
    return [
        Picture(image, [Segmentation.from_targets(batch.targets, row, (height, width))])
        for row, image in enumerate(images)
    ]


def write_picture(path: epath.Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a PNG; a reader finds no half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.unfinished"
    with unfinished.open("wb") as file:
        Image.fromarray(picture).save(file, format="PNG")
    unfinished.replace(path)
