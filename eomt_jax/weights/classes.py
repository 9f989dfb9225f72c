"""Finds the classes that a checkpoint of another library was trained on."""

import json
import re
from typing import Any

from eomt_jax import dataset_info
from eomt_jax.class_colors import distinct_color
from eomt_jax.types import ClassInfo, DatasetInfo
from eomt_jax.weights.wording import reason

CONFIG_KEY = "eomt_jax"  # our own export's, in config.json
SPLIT_KEY = "do_split_image"  # preprocessor_config.json: windows, so semantic
PUBLISHED = re.compile(r"(?P<dataset>[a-z0-9]+_[a-z]+)_eomt_[a-z]+_(?P<size>\d+)")


def published_name(path: str) -> tuple[str, int | None]:
    """Returns dataset and image size of one of the release's names within a path.

    An example of a name is coco_panoptic_eomt_large_640_dinov3. Without a name the
    result is ("", None).
    """
    found = [m for m in PUBLISHED.finditer(path) if m["dataset"] in _datasets()]
    return (found[-1]["dataset"], int(found[-1]["size"])) if found else ("", None)


def find_dataset_info(
    path: str,
    num_classes: int,
    *,
    config: dict[str, Any],
    processor: dict[str, Any],
) -> tuple[DatasetInfo | None, list[str]]:
    """Returns the classes of a checkpoint, and notes on them for the user.

    Args:
      path: path of the checkpoint, or its name on the hub; also for messages.
      num_classes: number of classes of its class head.
      config: its config.json; empty if there is none.
      processor: its preprocessor_config.json; empty if there is none.

    Raises:
      ValueError: the config.json has another number of classes.
    """
    if CONFIG_KEY in config:
        return _own_info(path, num_classes, config[CONFIG_KEY]), []
    names = _labels(path, num_classes, config)
    task = "semantic" if processor.get(SPLIT_KEY) is True else None
    if names:
        return _named_info(names, task)
    dataset, _ = published_name(path)
    if dataset:
        info = dataset_info.published_info(dataset)
        if info.num_classes == num_classes:
            return info, [f"Its classes are taken to be {dataset}'s, by its name."]
    return None, [
        f"It doesn't say what its {num_classes} classes are called; give dataset_info."
    ]


def _datasets() -> tuple[str, ...]:
    return dataset_info.available()


def _own_info(path: str, num_classes: int, value: Any) -> DatasetInfo:
    try:
        info = DatasetInfo.from_json(json.dumps(value))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: {CONFIG_KEY} in config.json cannot be read: {reason(error)}."
        ) from error
    _check_count(path, num_classes, info.num_classes)
    return info


def _labels(path: str, num_classes: int, config: dict[str, Any]) -> list[str]:
    """Returns the names in label order; none if they are only placeholders."""
    labels = config.get("id2label")
    if labels is None:
        return []
    if not isinstance(labels, dict) or set(labels) != set(map(str, range(len(labels)))):
        raise ValueError(
            f"{path}: id2label in config.json is {str(labels)[:200]}; wanted a name for "
            "each of 0, 1, 2, …"
        )
    _check_count(path, num_classes, len(labels))
    names = [str(labels[str(i)]) for i in range(num_classes)]
    placeholders = [f"LABEL_{i}" for i in range(num_classes)]
    return [] if names == placeholders else names


def _check_count(path: str, num_classes: int, found: int) -> None:
    if found != num_classes:
        raise ValueError(
            f"{path}: config.json names {found} classes, the class head has "
            f"{num_classes} and one for no object."
        )


def _named_info(
    names: list[str], task: str | None
) -> tuple[DatasetInfo | None, list[str]]:
    published = dataset_info.find_published(names, task)
    if published:
        return published, []
    semantic = task == "semantic"
    classes = tuple(
        ClassInfo(i, name, not semantic, distinct_color(i))
        for i, name in enumerate(names)
    )
    info = DatasetInfo(
        name="custom",
        classes=classes,
        max_image_size=(0, 0),
        max_segments=0,
        num_examples={},
        task="semantic" if semantic else "panoptic",
    )
    if semantic:
        return info, []
    note = (
        "It doesn't say which of its classes are stuff: all are taken to be things; "
        "give dataset_info if some are not."
    )
    return info, [note]
