"""Recognises folders of masks: of classes or of objects, with or without a class list."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from eomt_jax.datasets import mask_pngs, paired_files
from eomt_jax.datasets.class_lists import read_class_list
from eomt_jax.datasets.sources import some
from eomt_jax.datasets.spellings import last_part, plain
from eomt_jax.datasets.splits import parse_split_paths
from eomt_jax.own_data import mask_survey
from eomt_jax.own_data.places import Place, Recognized

CLASS_LISTS = ("classes.txt", "classes.csv", "classes.json", "labelmap.txt")


def recognize_masks(
    photographs: Place, masks: Place, *, task: str, classes: str, mask_name: str
) -> Recognized:
    """Returns what photographs and masks hold; see `recognize.recognize`."""
    options: dict[str, Any] = {"images": photographs.text, "masks": masks.text}
    with contextlib.ExitStack() as stack:
        images, mask_files = paired_files.list_files(
            photographs.text,
            masks.text,
            mask_name=mask_name,
            stack=stack,
            note=lambda *_: None,
        )
        classes = classes or _class_list_beside(photographs.text, masks.text)
        folders = [] if classes else _class_folders(images, mask_files)
        if folders and task in ("", "instance"):
            rows = [{"id": i, "name": name} for i, name in enumerate(folders)]
            return Recognized(
                "instance_folder",
                "instance",
                options,
                f"{masks.text} has a folder of masks for each of the classes "
                f"{some(folders)}: instance segmentation.",
                class_list=json.dumps(rows),
            )
        matched = paired_files.match_masks(images, mask_files, lambda *_: None)
        paired_files.keys_by_split(images, matched)  # raises
        found = mask_survey.survey(_read_all(mask_files))
    listed = read_class_list(classes).classes if classes else ()
    chosen = mask_survey.decide_task(found, task=task, num_listed=len(listed))
    if classes:
        options["classes"] = os.path.abspath(os.path.expanduser(classes))
    rows: list[dict[str, Any]] = []
    what = "colours" if found.has_colors else "numbers"
    if chosen == "instance":
        rows = [] if classes else [{"id": 1, "name": "object"}]
        sentence = (
            f"{masks.text} has masks that number the objects of each photograph: "
            "instance segmentation. If the numbers are classes, give --task=semantic."
        )
    else:
        rows = [] if classes else mask_survey.name_classes(found)
        ids = [c.id for c in listed] or [int(row["id"]) for row in rows]
        if not found.has_colors:
            options["ignore_label"] = mask_survey.free_value(ids)
        sentence = (
            f"{masks.text} has masks of {len(ids)} classes as {what}: semantic "
            "segmentation. If they are objects, give --task=instance."
        )
    if rows:
        names = some(str(row["name"]) for row in rows)
        sentence += (
            f" There is no class list, so the names are {names}: {CLASS_LISTS[0]} beside "
            "the masks, or --classes=FILE, gives others."
        )
    return Recognized(
        "mask_folder" if chosen == "semantic" else "instance_folder",
        chosen,
        options,
        sentence,
        class_list=json.dumps(rows) if rows else "",
    )


def _class_list_beside(*texts: str) -> str:
    """Returns the path of a class list in or beside the folders, or ""."""
    for text in reversed(texts):
        for path in parse_split_paths(text).values():
            place = epath.Path(path).expanduser()
            for folder in (place, place.parent):
                for name in CLASS_LISTS:
                    if folder.is_dir() and (folder / name).is_file():
                        return os.fspath(folder / name)
    return ""


def _class_folders(
    images: dict[str, paired_files.Files], masks: dict[str, paired_files.Files]
) -> list[str]:
    """Returns the folders that each hold masks of the same photographs, if there are."""
    photographs = {plain(key) for files in images.values() for key in files.names}
    keys = [plain(key) for files in masks.values() for key in files.names]
    if photographs & set(keys) or not all("/" in key for key in keys):
        return []
    names = {last_part(key) for key in photographs}
    if not any(last_part(key) in names for key in keys):
        return []
    folders = {key.split("/")[0] for files in masks.values() for key in files.names}
    return sorted(folders)


def _read_all(
    masks: dict[str, paired_files.Files],
) -> Iterator[tuple[str, mask_pngs.Pixels]]:
    for files in masks.values():
        for name in files.names.values():
            yield name, mask_pngs.read_pixels(files.source.read(name), file=name)
