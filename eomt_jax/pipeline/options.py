"""Options of the prepared dataset, of how it is read, and of its augmentation."""

import dataclasses
from typing import Literal

from eomt_jax.options import Choice, Flag, Span, Text, Whole, option

_SPLIT = Text(
    r"[\w.+:%\[\]-]{1,200}", "the name of a split, for instance train or train[:8]"
)


@dataclasses.dataclass(frozen=True)
class DatasetOptions:
    """The prepared dataset and its readers."""

    name: str = option(
        "coco_panoptic",
        Text(
            r"[A-Za-z]\w{0,199}",
            "a name of letters, digits and _ that begins with a letter",
        ),
        "The prepared dataset has this name.",
    )
    data_dir: str = option(
        "~/eomt_data",
        Text(r".{1,4096}", "a path"),
        "Prepared datasets lie in this folder.",
    )
    train_split: str = option("train", _SPLIT, "Training reads this split.")
    eval_split: str = option(
        "validation",
        _SPLIT,
        "Evaluation reads this split, and pictures on the way show it.",
    )
    on_damaged: Literal["stop", "replace"] = option(
        "stop",
        Choice(("stop", "replace")),
        'A damaged photograph ends the run with its id ("stop"), or another one takes '
        'its place and is counted ("replace").',
    )
    num_threads: int = option(
        0,
        Whole(0, 1024),
        "Each reading process has this many threads; 0 takes one for each core.",
    )
    num_workers: int = option(
        0,
        Whole(0, 1024),
        "This many worker processes read; 0 reads in the training process itself.",
    )
    max_targets: int = option(
        0,
        Whole(0, 65_536),
        "A sample has room for this many targets; 0 takes the most segments of any "
        "image prepared.",
    )


@dataclasses.dataclass(frozen=True)
class AugmentationOptions:
    """Random changes of each training photograph."""

    scale_range: tuple[float, float] = option(
        (0.1, 2.0),
        Span(0.01, 100.0),
        "Photographs are scaled by a factor between these; 1 just fits the crop.",
    )
    color_jitter: bool = option(
        False, Flag(), "Brightness, contrast, saturation and hue are changed."
    )
