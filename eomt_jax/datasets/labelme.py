"""A user's own photographs with Labelme's JSON files, one for each photograph.

The format is that of https://github.com/wkentaro/labelme (labelme/utils/shape.py and
examples/instance_segmentation/labelme2coco.py there). Shapes of one label that have the
same group_id are one object. Lines and points are no objects, and shapes with the label
__ignore__ are left out. The photograph is that of imagePath, or the one of the JSON's
name; where neither is there, the JSON has it inside (imageData).
"""

import base64
import binascii
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eomt_jax import json_files
from eomt_jax.datasets import coco_schema, mask_pngs, object_shapes
from eomt_jax.datasets.coco_schema import MAX_SIDE, short
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.photographs import PICTURE_ENDINGS
from eomt_jax.datasets.spellings import last_part
from eomt_jax.datasets.tool_format import Export, Place, ToolFormat

_IGNORED = "__ignore__"
# The last two are oriented rectangles, by the names that Labelme and X-AnyLabeling have.
_OUTLINES = ("polygon", "rectangle", "oriented_rectangle", "rotation")
_WITHOUT_AREA = ("line", "linestrip", "point", "points")


class _Photographs(FileFinder):
    """Photographs of a folder or archive, and those inside of JSON files."""

    def __init__(self, finder: FileFinder):
        super().__init__(finder.source)
        self.inside: dict[str, str] = {}  # imageData by the name of the photograph

    def find(self, file_name: str) -> str | None:
        return file_name if file_name in self.inside else super().find(file_name)

    def read(self, file_name: str) -> bytes:
        if file_name not in self.inside:
            return super().read(file_name)
        return _decode(self.inside[file_name], f"imageData of {file_name}")

    def size(self, file_name: str) -> int:
        if file_name not in self.inside:
            return super().size(file_name)
        return len(self.inside[file_name]) * 3 // 4

    def order(self, file_name: str) -> int:
        return 0 if file_name in self.inside else super().order(file_name)


class Labelme(ToolFormat):
    """Builder of a user's dataset with labels of Labelme."""

    description = "A user's own photographs with Labelme's shapes."

    def read(self, place: Place) -> Mapping[str, Export]:
        photographs = _Photographs(place.photographs)
        export = Export(place.source.name, photographs)
        for name, text in place.read_files(".json"):
            where = f"{name} in {place.source.name}"
            table = json_files.parse(text, source=where)
            try:
                if not isinstance(table, dict) or not isinstance(
                    table.get("shapes"), list
                ):
                    raise ValueError("it has no list of shapes")  # noqa: TRY004
                row = _image_row(table, name, photographs)
                export.add(row, self._read_shapes(table["shapes"], row, where))
            except ValueError as error:
                raise ValueError(f"{where} is no JSON of Labelme: {error}") from error
        if not export.images:
            raise ValueError(f"{place.source.name} holds no JSON of Labelme")
        return {place.split: export}

    def _read_shapes(
        self, shapes: Sequence[Any], image: Mapping[str, Any], where: str
    ) -> Iterator[tuple[str, Any, list[Any]]]:
        """Yields label, group and parts of each shape."""
        size = image["height"], image["width"]
        for number, shape in enumerate(shapes, 1):
            try:
                if not isinstance(shape, dict):
                    raise ValueError("it is no object")  # noqa: TRY004
                label, group = coco_schema.text(shape, "label"), shape.get("group_id")
                if not isinstance(group, str | int | float | None):
                    raise ValueError(f"group_id is {short(group)}")  # noqa: TRY004
                if label == _IGNORED:
                    self.note(f"shapes with the label {_IGNORED}, left out", where)
                else:
                    yield label, group, _read_shape(shape, size)
            except ValueError as error:
                raise ValueError(f"shape {number}: {error}") from error


def _image_row(
    table: Mapping[str, Any], name: str, photographs: _Photographs
) -> dict[str, Any]:
    """Returns the row of the photograph that a JSON is for."""
    folder, stem = posixpath.split(name)
    stem = stem.rpartition(".")[0]
    path = table.get("imagePath")
    path = path.replace("\\", "/") if isinstance(path, str) else ""
    beside = posixpath.normpath(posixpath.join(folder, path))
    of_same_name = [posixpath.join(folder, stem + e) for e in PICTURE_ENDINGS]
    found = next(
        (n for n in [beside, path, *of_same_name] if photographs.find(n)), None
    )
    if found is None:
        found = path or of_same_name[0]
        if isinstance(table.get("imageData"), str):
            found = posixpath.join(folder, last_part(found))
            photographs.inside[found] = table["imageData"]
    row: dict[str, Any] = {
        "id": posixpath.join(folder, stem).replace("/", "_"),
        "file_name": found,
    }
    for side, field in (("height", "imageHeight"), ("width", "imageWidth")):
        is_there = table.get(field) is not None
        row[side] = (
            coco_schema.whole_number(table, field, high=MAX_SIDE) if is_there else 0
        )
    return row


def _read_shape(shape: Mapping[str, Any], size: tuple[int, int]) -> list[Any]:
    """Returns the parts that a shape adds to its object: one, or none without an area."""
    kind = shape.get("shape_type") or "polygon"
    try:
        points = np.array(shape.get("points"), np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ValueError("its points are no list of [x, y]") from error
    if not np.isfinite(points).all():
        raise ValueError("its points are no finite numbers")
    if kind in _WITHOUT_AREA:
        return []
    if kind in ("rectangle", "circle", "mask") and len(points) == 2:
        first, second = points.tolist()
        if kind == "rectangle":
            return [object_shapes.rectangle(*first, *second)]
        if kind == "circle":
            radius = float(np.hypot(*(points[1] - points[0])))
            return [object_shapes.ellipse((first[0], first[1]), (radius, radius))]
        if not all(size):
            raise ValueError("a mask needs imageHeight and imageWidth")
        png = _decode(shape.get("mask"), "mask")
        mask = mask_pngs.read_label_map(png, file="its mask") > 0
        left, top = round(first[0]), round(first[1])
        return [object_shapes.paste(mask, left=left, top=top, size=size)]
    if kind in _OUTLINES:
        return [points.ravel()]
    raise ValueError(
        f"its shape_type is {short(kind)} with {len(points)} points, not one of "
        f"{', '.join((*_OUTLINES, 'circle', 'mask', *_WITHOUT_AREA))}"
    )


def _decode(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError(f"{what} is no file in base64 ({error})") from error
