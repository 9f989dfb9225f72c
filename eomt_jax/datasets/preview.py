"""Counts and draws what a prepared dataset holds.

`count` says how much there is of each class, `find_problems` names classes that are too
rare and objects that are too small to be learnt at a size, and `draw_sheet` draws
samples, each photograph beside its segments with their names.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_codec

from eomt_jax.pictures import name_plates, overlays
from eomt_jax.pipeline import records, transforms
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.types import DatasetInfo

RARE = 20  # a class of fewer segments is hardly learnt
_GAP, _CAPTION = 12, 18
_INK, _PAPER = (32, 35, 42), (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of a split by class; crowds are no targets and count apart.

    Attributes:
      num_images: images looked at.
      max_segments: most segments in one image, crowds included.
      images: int [K], images that have the class.
      segments: int [K], segments of the class.
      small: int [K], segments that are smaller than a patch in the network's input.
      side: float [K], the median segment's side in the network's input, as the
        square root of its area in pixels; 0 where there is no segment.
      pixels: float [K], the class's share of all pixels; objects that lie over one
        another count each.
      crowds: number of crowd regions.
      crowd_pixels: share of all pixels that belong to crowds alone.
      uncovered: share of all pixels that belong to no segment: the background of an
        instance dataset, void in others.
    """

    num_images: int
    max_segments: int
    images: np.ndarray
    segments: np.ndarray
    small: np.ndarray
    side: np.ndarray
    pixels: np.ndarray
    crowds: int
    crowd_pixels: float
    uncovered: float


def count(
    source: Iterable[records.Record],
    info: DatasetInfo,
    *,
    image_size: int,
    patch_size: int = 16,
) -> Counts:
    """Counts what `source` holds when its photographs just fit `image_size`."""
    areas: list[list[float]] = [[] for _ in info.classes]  # pixels of the input
    images, pixels = np.zeros((2, info.num_classes))
    num_images = max_segments = crowds = total = targets = covered = 0
    for record in source:
        num_images += 1
        max_segments = max(max_segments, len(record.labels))
        crowds += int(record.is_crowd.sum())
        total += record.height * record.width
        scale = min(image_size / record.height, image_size / record.width)
        labels = record.labels[~record.is_crowd]
        segment_areas, target_union, union = _measure(record)
        targets += target_union
        covered += union
        images[np.unique(labels)] += 1
        for label, segment_area in zip(labels, segment_areas, strict=True):
            areas[label].append(segment_area * scale**2)
            pixels[label] += segment_area
    return Counts(
        num_images=num_images,
        max_segments=max_segments,
        images=images.astype(int),
        segments=np.array([len(a) for a in areas]),
        small=np.array([np.sum(np.array(a) < patch_size**2) for a in areas], int),
        side=np.array([np.sqrt(np.median(a)) if a else 0.0 for a in areas]),
        pixels=pixels / max(total, 1),
        crowds=crowds,
        crowd_pixels=(covered - targets) / max(total, 1),
        uncovered=1 - covered / max(total, 1),
    )


def _measure(record: records.Record) -> tuple[np.ndarray, int, int]:
    """Counts the pixels of each segment but crowds, of these together, and of all."""
    is_target = ~record.is_crowd
    if record.segment_map is not None:
        pixels = np.bincount(
            record.segment_map.ravel(), minlength=len(record.labels) + 1
        )
        areas = pixels[1:][is_target]
        return areas, int(areas.sum()), int(pixels[1:].sum())
    rles: Any = [{"size": list(record.size), "counts": r} for r in record.rles or ()]
    targets = [rle for rle, wanted in zip(rles, is_target, strict=True) if wanted]

    def union(masks: list[Any]) -> int:
        return int(mask_codec.area(mask_codec.merge(masks))) if masks else 0

    areas = [mask_codec.area(rle) for rle in targets]
    return np.array(areas, float), union(targets), union(rles)


def format_counts(counts: Counts, info: DatasetInfo) -> str:
    """Makes a table with the most frequent class first, without absent classes."""
    rows = [
        f"{'class':24}{'images':>8}{'segments':>10}{'pixels':>8}{'median side':>13}"
    ]
    for label in np.argsort(-counts.segments, kind="stable"):
        if counts.segments[label]:
            row = info.classes[label]
            is_stuff = info.task == "panoptic" and not row.is_thing
            name = f"{row.name} (stuff)" if is_stuff else row.name
            rows.append(
                f"{name:24}{counts.images[label]:8,}{counts.segments[label]:10,}"
                f"{counts.pixels[label]:8.1%}{counts.side[label]:10.0f} px"
            )
    rows.append(
        f"{counts.num_images:,} images, {counts.segments.sum():,} segments, at most "
        f"{counts.max_segments} in one image"
    )
    if counts.crowds:
        rows.append(
            f"crowds: {counts.crowds:,}, with {counts.crowd_pixels:.1%} of the pixels"
        )
    kind = "background, without an object" if info.task == "instance" else "void"
    rows.append(f"{counts.uncovered:.1%} of the pixels are {kind}")
    return "\n".join(rows)


def find_problems(
    counts: Counts, info: DatasetInfo, *, image_size: int, patch_size: int = 16
) -> list[str]:
    """Returns a sentence for each flaw of the data that training can't make up for."""
    names = np.array([c.name for c in info.classes])
    is_thing = info.is_thing
    absent = counts.segments == 0
    rare = (counts.segments < RARE) & ~absent
    small = is_thing & ~absent & (counts.small > counts.segments / 2)
    problems = []
    is_background = np.array([n.lower().strip("_") == "background" for n in names])
    if info.task == "instance" and (absent & is_background).any():
        problems.append(
            "the class list has the background, which is what no object covers and "
            "needs no class"
        )
        absent &= ~is_background
    if absent.any():
        problems.append(f"classes without a segment: {_several(names[absent])}")
    if rare.any():
        problems.append(
            f"classes too rare to learn, with fewer than {RARE} segments: "
            f"{_several(names[rare])}"
        )
    if small.any():
        problems.append(
            f"classes whose objects are mostly smaller than a patch ({patch_size} x "
            f"{patch_size}) at image_size={image_size}: {_several(names[small])}"
        )
    num_things = counts.segments[is_thing].sum()
    share = counts.small[is_thing].sum() / max(num_things, 1)
    if share > 0.1:
        problems.append(
            f"{share:.0%} of all objects are smaller than a patch at "
            f"image_size={image_size}; a larger image_size would show them"
        )
    return problems


def draw_sheet(
    samples: Sequence[records.Record], info: DatasetInfo, *, panel: int = 420
) -> Image.Image:
    """Draws photographs beside their segments, two samples a row, with file names.

    Args:
      samples: the photographs and segments to draw.
      info: the class table.
      panel: longest side of a photograph on the sheet, in pixels.
    """
    cells = [_draw_cell(sample, info, panel) for sample in samples]
    width = 2 * panel + _GAP // 2
    columns = 2 if len(cells) > 1 else 1
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new(
        "RGB",
        (_GAP + columns * (width + _GAP), _GAP + sum(h + _GAP for h in heights)),
        _PAPER,
    )
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (width + _GAP), top))
        top += height + _GAP
    return sheet


def _draw_cell(record: records.Record, info: DatasetInfo, panel: int) -> Image.Image:
    image = transforms.decode_image(record.image_bytes)
    segments = Image.fromarray(
        overlays.draw_segmentation(
            np.asarray(image), Segmentation.from_record(record), info, long_side=panel
        )
    )
    cell = Image.new("RGB", (2 * panel + _GAP // 2, segments.height + _CAPTION), _PAPER)
    photograph = image.resize(segments.size, Image.Resampling.BICUBIC)
    cell.paste(photograph, (panel - segments.width, 0))
    cell.paste(segments, (panel + _GAP // 2, 0))
    left = panel - segments.width
    caption, font = _caption(record, max_width=cell.width - left)
    ImageDraw.Draw(cell).text((left, segments.height + 3), caption, _INK, font)
    return cell


def _caption(
    record: records.Record, *, max_width: int
) -> tuple[str, ImageFont.FreeTypeFont]:
    """Makes a line of the file's name, the id if it is another, the size and counts.

    Returns:
      The line, and a font that has its letters.
    """
    name, image_id = record.file_name or record.image_id, record.image_id
    about = "" if image_id in name.replace("/", "_") else f"   id {image_id}"
    about += f"   {record.width} x {record.height} px   {len(record.labels)} segments"
    if record.is_crowd.any():
        about += f", {record.is_crowd.sum()} of them crowds"
    text, font = name_plates.legible(name + about, 12)
    caption, start = text, 0
    while font.getlength(caption) > max_width:
        start += 1
        caption = f"…{text[start:]}"  # the end of a long path says most
    return caption, font


def _several(names: np.ndarray, shown: int = 12) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def spread(total: int, wanted: int) -> list[int]:
    """Spreads at most `wanted` indices evenly over `total`; 0 wants all."""
    if wanted == 0 or wanted >= total:
        return list(range(total))
    return [i * total // wanted for i in range(wanted)]
