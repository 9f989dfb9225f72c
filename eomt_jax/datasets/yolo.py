"""A user's own photographs with polygons as YOLO has them.

The format is that of https://docs.ultralytics.com/datasets/segment: a text for each
photograph, and in it a line for each object with the number of its class and corners
x y x y … in shares of the photograph's width and height. It is found by replacing the
last folder `images` in the photograph's path by `labels`; without such a folder it lies
beside the photograph. A photograph without a text, or with an empty one, shows no
object. data.yaml has the classes' names and the splits' folders or lists of
photographs.

An object of several parts is one polygon that goes from part to part and back on the
same line, which encloses no pixel.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from etils import epath

from eomt_jax.datasets.coco_instance import InstanceReader
from eomt_jax.datasets.coco_reader import AnnotatedImage
from eomt_jax.datasets.coco_schema import short
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.sources import Source, some
from eomt_jax.datasets.spellings import last_part, plain
from eomt_jax.datasets.splits import TEST, TRAIN, VALIDATION
from eomt_jax.datasets.tool_format import Export, Place, ToolFormat
from eomt_jax.regular_files import MAX_JSON, check_regular

_SPLITS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_YAML = (".yaml", ".yml")
# Outlines that are cut off at the border pass; pixels in place of shares don't.
_LARGEST_SHARE = 2


class YoloReader(InstanceReader):
    """Records of polygons in shares of the size of photographs as viewers show them."""

    has_sizes = False

    def read_photograph(self, image: AnnotatedImage) -> tuple[bytes, AnnotatedImage]:
        encoded, image = super().read_photograph(image)
        size = np.array(image.size[::-1])

        def scale(share: np.ndarray) -> np.ndarray:
            return (share.reshape(-1, 2) * size).ravel()

        masks = [
            thing._replace(segmentation=tuple(map(scale, thing.segmentation)))
            for thing in image.masks
        ]
        return encoded, dataclasses.replace(image, masks=masks)


class Yolo(ToolFormat):
    """Builder of a user's dataset with labels of YOLO."""

    description = "A user's own photographs with YOLO's polygons."
    instance_reader = YoloReader

    def find_root(self, path: epath.Path) -> epath.Path:
        check_regular(path, max_bytes=MAX_JSON)
        root = _parse(path.read_bytes(), str(path)).get("path")
        folder = path.parent / root if isinstance(root, str) else path.parent
        return folder if folder.is_dir() else path.parent

    def read(self, place: Place) -> Mapping[str, Export]:
        file, described = self._describe(place)
        names = _class_names(described.get("names"), file)
        if self.class_list:
            names = {c.id: c.name for c in self.class_list}
        if not names:
            raise ValueError(
                f"{place.source.name} has no data.yaml with the names of the classes: "
                "give --classes=FILE, with a name on each line"
            )
        if self.has_images or place.split or not described:
            photographs = {place.split: {name: name for name in place.pictures()}}
        else:
            photographs = self._list_splits(place, file, described)
        classes = [{"id": key, "name": name} for key, name in names.items()]
        texts, used = FileFinder(place.source), set()
        exports: dict[str, Export] = {}
        for split, members in photographs.items():
            export = exports[split] = Export(file, place.photographs, classes)
            for name, member in members.items():
                image_id = name.rpartition(".")[0].replace("/", "_")
                row = {"id": image_id, "file_name": member}
                text = _find_text(place, texts, member)
                if text is None:
                    what = "photographs without a text, taken for those of no object"
                    self.note(what, member)
                else:
                    used.add(text)
                export.add(row, self._read_objects(place.source, text, names))
        if not used:
            raise ValueError(
                f"no photograph has a text in {place.source.name}: the text of "
                "images/1.jpg is labels/1.txt, and that of photos/1.jpg photos/1.txt"
            )
        unused = {n for n in place.source.names() if "labels/" in n} - used
        if unused:
            self.note("files of labels without a photograph, left out", *unused)
        return exports

    def _describe(self, place: Place) -> tuple[str, dict[str, Any]]:
        """Returns the name of data.yaml and what it says; nothing where there is none."""
        found = {}
        for name, text in place.read_files(*_YAML):
            table = _parse(text, f"{name} in {place.source.name}")
            if "names" in table:
                found[name] = {**table, "folder": name.rpartition("/")[0]}
        if len(found) > 1:
            raise ValueError(
                f"{place.source.name} describes several datasets: {some(found)}; name one "
                "of the files with --annotations"
            )
        return next(iter(found.items()), (place.source.name, {}))

    def _list_splits(
        self, place: Place, file: str, described: Mapping[str, Any]
    ) -> dict[str, dict[str, str]]:
        """Returns the photographs of each split, by their names in its folder."""
        found: dict[str, dict[str, str]] = {}
        for key, split in _SPLITS.items():
            entries = described.get(key) or []
            for entry in entries if isinstance(entries, list) else [entries]:
                names = _list_entry(place, described, entry)
                if names:
                    found.setdefault(split, {}).update(names)
                elif split == TRAIN:
                    raise ValueError(
                        f"{file}: {key} is {short(entry)}, and {place.source.name} has "
                        "no such folder of photographs and no such list of them"
                    )
                else:
                    what = f"folders of {file} without a photograph, left out"
                    self.note(what, short(entry))
        if not found:
            raise ValueError(f"{file} names no photographs: it lacks train: FOLDER")
        return {"": found[TRAIN]} if set(found) == {TRAIN} else found

    def _read_objects(
        self, source: Source, text: str | None, names: Mapping[int, str]
    ) -> Iterator[tuple[str, None, list[np.ndarray]]]:
        """Yields label, no group and corners of each line; a box has no corners."""
        if text is None:
            return
        seen = set()
        try:
            lines = source.read(text).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            what = f"{text} in {source.name} is no text in UTF-8 ({error})"
            raise ValueError(what) from error
        for number, line in enumerate(lines, 1):
            fields = tuple(line.split())
            if fields in seen:
                self.note("lines that come twice, taken once", f"{text}:{number}")
            elif fields:
                seen.add(fields)
                try:
                    name, corners = _read_line(fields, names)
                except ValueError as error:
                    where = f"{text} in {source.name}, line {number}"
                    raise ValueError(f"{where}: {error}") from error
                yield name, None, [] if corners.size == 4 else [corners]


def _read_line(
    fields: Sequence[str], names: Mapping[int, str]
) -> tuple[str, np.ndarray]:
    """Returns a class and the numbers after it, four of which are a box."""
    try:
        values = np.array(fields, np.float64)
    except ValueError as error:
        what = f"{short(' '.join(fields))} is no number of a class with coordinates"
        raise ValueError(what) from error
    label, corners = values[0], values[1:]
    if label not in names:
        raise ValueError(
            f"there is no class {fields[0]}; the names are "
            + some(f"{key} ({name})" for key, name in names.items())
        )
    if corners.size % 2:
        raise ValueError(
            f"{corners.size} numbers follow the class, which are no pairs x y (a "
            "confidence at the end is no part of a label)"
        )
    wrong = corners[~(np.abs(corners) <= _LARGEST_SHARE)]
    if wrong.size:
        raise ValueError(
            f"a coordinate is {wrong[0]:g}; it has to be a share of the photograph's "
            "width or height, from 0 to 1"
        )
    return names[int(label)], corners


def _find_text(place: Place, texts: FileFinder, photograph: str) -> str | None:
    """Returns the text of a photograph, None where it has none.

    Labels in a place of their own may have other folders than the photographs. Beside
    the photographs, a text of the same name in another folder is another one's.
    """
    folder, slash, name = photograph.rpartition("/")
    parts = folder.split("/")
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    wanted = f"{'/'.join(parts)}{slash}{name.rpartition('.')[0]}.txt"
    found = texts.find(wanted)
    if found and place.photographs.source is place.source:
        return found if plain(found) == plain(wanted) else None
    return found


def _list_entry(
    place: Place, described: Mapping[str, Any], entry: Any
) -> dict[str, str]:
    """Returns the photographs of a folder, or those that a text lists.

    Paths may begin with folders of the machine where they were written.
    """
    if not isinstance(entry, str):
        return {}
    base, root = described["folder"], described.get("path")
    if isinstance(root, str):
        entry = f"{root}/{entry}"
    for path in _endings(entry, base):
        if path in place.source and path.lower().endswith(".txt"):
            lines = place.source.read(path).decode("utf-8-sig", "replace").splitlines()
            return dict(
                _find_listed(place, line, base) for line in lines if line.strip()
            )
        folder = f"{path}/" if path else ""
        names = place.pictures(folder)
        if names:
            return {name: folder + name for name in names}
    return {}


def _find_listed(place: Place, line: str, base: str) -> tuple[str, str]:
    paths = list(_endings(line.strip(), base))
    found = next((p for p in paths if p in place.photographs.source), None)
    name = found or place.photographs.find(line.strip()) or line.strip()
    return last_part(name), name


def _endings(path: str, base: str) -> Iterator[str]:
    """Yields a path inside of `base`, with all of its folders, without the first, …"""
    parts = [p for p in path.replace("\\", "/").split("/") if p not in ("", ".", "..")]
    for start in range(len(parts) or 1):
        yield "/".join([*filter(None, [base]), *parts[start:]])


def _class_names(names: Any, file: str) -> dict[int, str]:
    """Returns the names of data.yaml, a list or a mapping, by class number."""
    rows = dict(enumerate(names)) if isinstance(names, list) else names or {}
    is_flat = isinstance(rows, dict) and all(
        str(key).isdecimal() and isinstance(name, str) for key, name in rows.items()
    )
    if not is_flat:
        raise ValueError(f"{file}: names is {short(names)}, not 0: name, 1: name, …")
    return {int(key): name for key, name in rows.items()}


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        # Every value stays a text: names may be no, on or 007.
        value = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no YAML ({error})") from error
    return value if isinstance(value, dict) else {}
