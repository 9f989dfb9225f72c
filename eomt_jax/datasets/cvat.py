"""A user's own photographs with an export "CVAT for images 1.1" of CVAT.

The format is that of https://docs.cvat.ai/docs/other/xml_format: one XML with the labels
and, for each photograph, its shapes. Shapes of one label with the same group_id are one
object, as in CVAT's own export to COCO. Polylines, points, cuboids and skeletons are no
objects. An archive of a project has a subset for each photograph; several make splits.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from eomt_jax.datasets import coco_schema, object_shapes
from eomt_jax.datasets.coco_schema import MAX_SIDE, short
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.photographs import PICTURE_ENDINGS
from eomt_jax.datasets.splits import split_name
from eomt_jax.datasets.tool_format import Export, Place, ToolFormat

_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")
_NO_OBJECTS = ("tag",)  # a label of the whole photograph


class Cvat(ToolFormat):
    """Builder of a user's dataset with labels of CVAT."""

    description = "A user's own photographs with CVAT's shapes."

    def read(self, place: Place) -> Mapping[str, Export]:
        images: list[ElementTree.Element] = []
        labels: dict[str, dict[str, Any]] = {}
        for name, text in place.read_files(".xml"):
            root = _parse(text, f"{name} in {place.source.name}")
            images += root.iterfind("image")
            for row in _label_rows(root):
                labels.setdefault(row["name"], row)
        if not images:
            raise ValueError(f"{place.source.name} holds no XML of CVAT with an image")
        subsets = {image.get("subset", "") for image in images}
        exports: dict[str, Export] = {}
        for image in images:
            is_divided = len(subsets) > 1 and not place.split
            split = split_name(image.get("subset", "")) if is_divided else place.split
            export = exports.setdefault(
                split,
                Export(place.source.name, place.photographs, list(labels.values())),
            )
            where = f"image {image.get('name')} of {place.source.name}"
            try:
                row = _image_row(image, place.photographs)
                export.add(row, _read_shapes(image, row))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        return exports


def _read_shapes(
    image: ElementTree.Element, row: Mapping[str, Any]
) -> Iterator[tuple[str, str | None, list[Any]]]:
    """Yields label, group and parts of each shape."""
    size = row["height"], row["width"]
    for number, shape in enumerate(image, 1):
        if shape.tag not in _NO_OBJECTS:
            try:
                label = coco_schema.text(shape.attrib, "label")
                yield label, shape.get("group_id"), _read_shape(shape, size)
            except ValueError as error:
                raise ValueError(f"shape {number}: {error}") from error


def _parse(text: bytes, where: str) -> ElementTree.Element:
    """Returns the root of an XML; ValueError unless it annotates images."""
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError(f"{where} declares entities, which CVAT's exports don't")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no XML ({error})") from error
    if root.tag != "annotations":
        raise ValueError(f"{where} is no XML of CVAT: it begins with {short(root.tag)}")
    if root.find("track") is not None:
        raise ValueError(
            f"{where} has tracks, as exports for video have: export the task again as "
            '"CVAT for images 1.1", with its images'
        )
    return root


def _label_rows(root: ElementTree.Element) -> Iterator[dict[str, Any]]:
    """Yields the task's labels with their colours, but not the parts of skeletons."""
    for label in root.iterfind("meta//labels/label"):
        if label.find("parent") is None:
            color = label.findtext("color")
            yield {
                "name": label.findtext("name"),
                **({"color": color} if color else {}),
            }


def _image_row(image: ElementTree.Element, photographs: FileFinder) -> dict[str, Any]:
    name = coco_schema.text(image.attrib, "name").replace("\\", "/")
    names = [f"images/{image.get('subset')}/{name}", f"images/{name}", name]
    if not name.lower().endswith(PICTURE_ENDINGS):  # a frame of a video
        names += [f"{n}{ending}" for n in names for ending in (".png", ".jpg")]
    there = [n for n in names if n in photographs.source]
    found = there or [n for n in names if photographs.find(n)] or [name]
    stem = name.rpartition(".")[0] if name.lower().endswith(PICTURE_ENDINGS) else name
    return {
        "id": stem.replace("/", "_"),
        "file_name": found[0],
        **{
            side: coco_schema.whole_number(image.attrib, side, low=1, high=MAX_SIDE)
            for side in ("height", "width")
        },
    }


def _read_shape(shape: ElementTree.Element, size: tuple[int, int]) -> list[Any]:
    """Returns the parts that a shape adds to its object: one, or none without an area."""
    if shape.tag in _WITHOUT_AREA:
        return []
    if shape.tag == "polygon":
        return [_numbers(shape, "points")]
    if shape.tag == "mask":
        return [_read_mask(shape, size)]
    turn = _numbers(shape, "rotation")[0] if "rotation" in shape.attrib else 0.0
    if shape.tag == "box":
        left, top, right, bottom = _sides(shape, "xtl", "ytl", "xbr", "ybr")
        return [object_shapes.rectangle(left, top, right, bottom, degrees=turn)]
    if shape.tag == "ellipse":
        x, y, radius_x, radius_y = _sides(shape, "cx", "cy", "rx", "ry")
        return [object_shapes.ellipse((x, y), (radius_x, radius_y), degrees=turn)]
    known = ("polygon", "box", "mask", "ellipse", *_WITHOUT_AREA, *_NO_OBJECTS)
    raise ValueError(f"it is {short(shape.tag)}, not one of {', '.join(known)}")


def _read_mask(shape: ElementTree.Element, size: tuple[int, int]) -> Any:
    """Returns run lengths of the photograph; CVAT has those of a box, row by row."""
    left, top, width, height = (
        coco_schema.whole_number(shape.attrib, field, high=MAX_SIDE)
        for field in ("left", "top", "width", "height")
    )
    runs = _numbers(shape, "rle")
    is_whole = (runs >= 0).all() and (runs == runs.round()).all()
    if (
        not is_whole
        or runs.sum() != width * height
        or width * height > size[0] * size[1]
    ):
        raise ValueError(
            f"its rle has {runs.sum():,.0f} pixels for {width} x {height}, in a "
            f"photograph of {size[1]} x {size[0]}"
        )
    values = np.arange(len(runs)) % 2 == 1
    mask = np.repeat(values, runs.astype(np.int64)).reshape(height, width)
    return object_shapes.paste(mask, left=left, top=top, size=size)


def _sides(shape: ElementTree.Element, *fields: str) -> Sequence[float]:
    return [float(_numbers(shape, field)[0]) for field in fields]


def _numbers(shape: ElementTree.Element, field: str) -> np.ndarray:
    """Returns the numbers of a field that , or ; separate."""
    text = shape.get(field, "")
    try:
        numbers = np.array(re.split("[,;]", text), np.float64)
    except ValueError as error:
        raise ValueError(f"{field} is {short(text)}, no numbers") from error
    if not np.isfinite(numbers).all() or field == "points" and numbers.size % 2:
        raise ValueError(f"{field} is {short(text)}, no numbers")
    return numbers
