"""Recognises a user's photographs and labels by what is in the files; writes nothing."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from eomt_jax.datasets.options import check_options
from eomt_jax.datasets.prepare import FORMATS
from eomt_jax.datasets.sources import some
from eomt_jax.datasets.splits import parse_split_paths
from eomt_jax.own_data import json_kind
from eomt_jax.own_data.choices import DATA_OPTIONS
from eomt_jax.own_data.mask_folders import recognize_masks
from eomt_jax.own_data.places import (
    WANTED,
    Paths,
    Place,
    Recognized,
    as_texts,
    look_into,
)
from eomt_jax.own_data.tool_labels import recognize_tool, tool_of


def recognize(
    paths: Paths,
    *,
    task: str = "",
    classes: epath.PathLike = "",
    **data_options: Any,
) -> Recognized:
    """Returns what the paths hold.

    Args:
      paths: photographs, and masks or a JSON, and the PNGs of a panoptic JSON; or the
        labels of YOLO, Labelme or CVAT; each a folder, a file or an archive, or
        train=PATH,validation=PATH. Only photographs and masks go by their order, where
        both are PNGs.
      task: the user's, which decides whether masks are of classes or of objects.
      classes: the user's class list, for masks; by default one of CLASS_LISTS beside
        them.
      **data_options: values of DATA_OPTIONS, for the builder.

    Raises:
      ValueError: there are no photographs or no labels, or they are of another kind.
    """
    found = _recognize(as_texts(paths), task, os.fspath(classes), data_options)
    given = {k: v for k, v in data_options.items() if v != DATA_OPTIONS[k].default}
    found.options.update(given)
    options = {**found.options, **({"classes": ""} if found.class_list else {})}
    if classes:
        options["classes"] = classes
    check_options(found.format, FORMATS[found.format], options)
    return found


def _recognize(
    texts: Sequence[str], task: str, classes: str, data_options: Mapping[str, Any]
) -> Recognized:
    if tools := {text: tool for text in texts if (tool := tool_of(text))}:
        return recognize_tool(tools, texts, classes=classes)
    jsons = [text for text in texts if _is_json(text)]
    places = [look_into(text) for text in texts if text not in jsons]
    if len(places) == 1 and not jsons and not places[0].has_pngs:
        jsons = [_only_json(places[0])]
    if len(jsons) > 1:
        raise ValueError(
            f"{' and '.join(jsons)} are two JSONs: give one, or "
            f"train={jsons[0]},validation={jsons[1]}"
        )
    if jsons:
        return _recognize_json(jsons[0], places)
    if not 1 <= len(places) <= 2:
        raise ValueError(f"{len(places)} folders or archives are given: {WANTED}")
    photographs, masks = places[0], places[-1]
    if not masks.has_pngs and photographs.has_only_pngs:
        photographs, masks = masks, photographs
    return recognize_masks(
        photographs,
        masks,
        task=task,
        classes=classes,
        mask_name=data_options.get("mask_name", ""),
    )


def _is_json(text: str) -> bool:
    paths = parse_split_paths(text).values()
    return all(path.lower().endswith(".json") for path in paths)


def _only_json(place: Place) -> str:
    """Returns the path of the JSON in a folder of photographs."""
    if len(place.jsons) != 1 or not epath.Path(place.text).expanduser().is_dir():
        found = f"the JSONs {some(place.jsons)}" if place.jsons else "no mask or JSON"
        raise ValueError(f"{place.text} holds photographs and {found}: {WANTED}")
    return os.path.join(place.text, place.jsons[0])


def _recognize_json(text: str, places: list[Place]) -> Recognized:
    paths = list(parse_split_paths(text).values())
    for path in paths:
        if not epath.Path(path).expanduser().is_file():
            raise ValueError(f"there is no file {path}")
    kinds = {json_kind.kind_of(path) for path in paths}
    if len(kinds) > 1:
        raise ValueError(f"{text} are JSONs of {' and of '.join(sorted(kinds))}")
    if not places:
        places = [look_into(os.path.dirname(paths[0]) or ".")]
    if kinds == {json_kind.INSTANCES}:
        if len(places) > 1:
            raise ValueError(
                f"{text} has the masks of its objects, so that {places[1].text} is one "
                "path too many: leave it out"
            )
        return Recognized(
            "coco_format",
            "instance",
            {"images": places[0].text, "annotations": text},
            f"{text} has objects in COCO's format, of the photographs in "
            f"{places[0].text}: instance segmentation.",
        )
    photographs, segments = places[0].text, places[-1].text
    if len(places) == 1:
        segments = _pngs_beside(text)
    elif len(places) > 2:
        raise ValueError(f"{len(places) + 1} paths are given: {WANTED}")
    elif places[0].has_only_pngs and not places[1].has_only_pngs:
        photographs, segments = segments, photographs
    return Recognized(
        "coco_format",
        "panoptic",
        {"images": photographs, "annotations": text, "segments": segments},
        f"{text} has objects and background in COCO's panoptic format, with the PNGs in "
        f"{segments} and the photographs in {photographs}: panoptic segmentation.",
    )


def _pngs_beside(text: str) -> str:
    """Returns the folder or archive of a panoptic JSON's name, as COCO has them."""
    found = {}
    for split, path in parse_split_paths(text).items():
        stem = path[: -len(".json")]
        beside = [p for p in (stem, f"{stem}.zip") if epath.Path(p).exists()]
        if not beside:
            raise ValueError(
                f"{path} is a panoptic JSON, and its PNGs are not in {stem}: give their "
                "folder too, eomt-train PHOTOS panoptic.json PNGS"
            )
        found[split] = beside[0]
    return ",".join(f"{s}={path}" if s else path for s, path in found.items())
