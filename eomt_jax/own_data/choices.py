"""Chooses a training's size by device, data and weights; every choice can be given.

Legend: "rows" are the images of a batch that one device has.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from eomt_jax.models.variants import get_variant
from eomt_jax.options import Choice, Flag, Option, Real, Text, Whole
from eomt_jax.own_data.weights import Weights
from eomt_jax.training.reporting.trackers import KINDS

# Flags of eomt-train and keywords of `train`; a default of None is chosen.
OPTIONS: dict[str, Option] = {
    "weights": Option(
        None,
        Text(),
        "The network starts from this file, folder or name on the Hugging Face hub, a "
        'DINOv2, a DINOv3 or a whole EoMT; "none" starts from scratch. Chosen from what '
        "is there.",
    ),
    "validation": Option(
        0.2,
        Real(0.01, 0.99),
        "This share of the photographs is held out and scored.",
    ),
    "image_size": Option(
        None, Whole(16, 16_384), "The network sees a square of this side in pixels."
    ),
    "batch_size": Option(
        None, Whole(1, 2**20), "Each step takes this many photographs."
    ),
    "accumulation": Option(
        None,
        Whole(1, 2**20),
        "Each step goes through its photographs in this many passes: less memory.",
    ),
    "remat": Option(
        None, Flag(), "Blocks are computed again in the backward pass: less memory."
    ),
    "dtype": Option(
        None,
        Choice(("bfloat16", "float16", "float32")),
        "Activations have this type.",
    ),
    "steps": Option(
        None,
        Whole(1, 2**24),
        "The training has this many steps. With more in the same --out it goes on.",
    ),
    "learning_rate": Option(
        None, Real(0.0, 1.0, above=True), "This is the highest learning rate."
    ),
    "frozen_blocks": Option(
        None,
        Whole(0, 1000, special=-1),
        "This many of the backbone's first blocks stay as they are; -1 freezes all.",
    ),
    "num_queries": Option(
        None,
        Whole(1, 65_536),
        "At most this many segments of a photograph are found.",
    ),
    "seed": Option(0, Whole(0, 2**32 - 1), "Everything random follows from it."),
    "tracker": Option(
        "",
        Choice(("", *KINDS)),
        "Weights & Biases or MLflow shows the training too; docs/runs.md says how.",
    ),
}

# Options of some of the builders, which say in data/README.md what they do.
DATA_OPTIONS: dict[str, Option] = {
    "mask_name": Option(
        "", Text(), "Masks are called so, as {}_mask.png; {} is the photograph's name."
    ),
    "ignore_label": Option(
        None, Whole(0, 65_535), "Pixels of this value belong to no class or object."
    ),
    "remap": Option(
        "", Text(), "Values of masks mean others, as in 3=1,7=ignore,others=0."
    ),
    "object_classes": Option(
        "", Text(), "This CSV of file, id, class says the classes of numbered objects."
    ),
    "crowds_as_objects": Option(
        False, Flag(), "COCO's iscrowd = 1 is an object like others, as in CVAT's JSON."
    ),
    "negatives": Option(
        False, Flag(), "Photographs without an object are trained on too."
    ),
    "skip_damaged": Option(
        False, Flag(), "Photographs that can't be decoded are left out."
    ),
}

# A core trains an EoMT-S at 192 pixels, with half of its blocks frozen, on so many
# photographs a minute. With compiling and scoring, 840 took 413 s of an AMD EPYC's
# cores, which are 122 a minute; not all cores are busy all the time.
_IMAGES_PER_CORE_MINUTE = 105
# Share of this that an image takes at any size, by the 68 images a second of
# configs/quickstart.py on two cores.
_FIXED_COST = 0.03
_CPU_MINUTES = (4, 30)  # of steps: for few photographs, and at most
_PHOTOGRAPHS_PER_MINUTE = 10
_FEW = 100  # photographs, with which fewer weights should move
_GPU_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices that train.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      kind: the device's name.
      num_devices: how many there are.
      cores: of the processor.
    """

    platform: str
    kind: str
    num_devices: int
    cores: int

    def __str__(self) -> str:
        if self.platform == "cpu":
            return f"a CPU with {self.cores} core{'s' * (self.cores != 1)}"
        return f"{self.num_devices} × {self.kind}"


@dataclasses.dataclass(frozen=True)
class Data:
    """Facts of the prepared photographs.

    Attributes:
      num_images: of the training split.
      max_side: of the largest, in pixels.
      max_segments: of any of them.
    """

    num_images: int
    max_side: int
    max_segments: int


def check(given: Mapping[str, Any]) -> None:
    """Raises ValueError if a name is unknown or a value out of its range."""
    options = {**OPTIONS, **DATA_OPTIONS}
    for name, value in given.items():
        if name not in options:
            raise ValueError(
                f"there is no option {name}; there are {', '.join(options)}"
            )
        if value is not None and not options[name].range.accepts(value):
            raise ValueError(
                f"--{name}={value!r:.80}: it must be {options[name].range}"
            )


def check_with_weights(given: Mapping[str, Any], weights: Weights) -> None:
    """Raises ValueError if values that are given don't go with the weights."""
    size, patch = given.get("image_size"), patch_size(weights)
    if size and size % patch:
        raise ValueError(
            f"--image_size={size} is no multiple of {patch}, the side of a patch in "
            f"pixels: give {max(1, round(size / patch)) * patch}"
        )
    if given.get("frozen_blocks") and not weights.kind:
        raise ValueError(
            f"--frozen_blocks={given['frozen_blocks']} would freeze weights drawn at "
            "random: leave it out, or give --weights"
        )


def choose(
    machine: Machine, data: Data, weights: Weights, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a value for every option but the weights.

    Args:
      machine: what trains.
      data: what is trained on.
      weights: what it starts from.
      given: the user's values, None or absent where there is none.
    """
    on_cpu = machine.platform == "cpu"
    given = {k: v for k, v in given.items() if v is not None and k != "weights"}
    chosen = {k: option.default for k, option in OPTIONS.items() if k != "weights"}
    patch = patch_size(weights)
    side = math.ceil(data.max_side / patch) * patch
    pretrained = weights.kind != ""
    if on_cpu:
        wanted = 192 if machine.cores < 8 else 256
    else:
        wanted = 640
    if not pretrained:
        wanted = 128 if on_cpu else 256
    depth = get_variant(weights.variant).depth
    freezes = pretrained and (on_cpu or data.num_images < _FEW)
    num_queries = weights.num_queries or (50 if on_cpu else 100)
    chosen |= {
        "image_size": max(patch, min(wanted // patch * patch, side)),
        "batch_size": 4 if on_cpu else 8,
        "accumulation": 1,
        "remat": False,
        "dtype": "float32" if on_cpu else "bfloat16",
        "learning_rate": 1e-3 if not pretrained else 3e-4 if on_cpu else 1e-4,
        "frozen_blocks": depth // 2 if freezes else 0,
        "num_queries": max(num_queries, data.max_segments),
    }
    devices = machine.num_devices
    rows = min(math.ceil(chosen["batch_size"] / devices), data.num_images // devices)
    chosen["batch_size"] = max(1, rows) * devices
    chosen |= given
    if chosen["steps"] is None:
        chosen["steps"] = (
            _cpu_steps(machine, data, weights, chosen) if on_cpu else _GPU_STEPS
        )
    return chosen


def patch_size(weights: Weights) -> int:
    """Returns the side of a patch in pixels; from scratch, small images need small ones."""
    return weights.patch_size or (16 if weights.kind else 8)


def _cpu_steps(
    machine: Machine, data: Data, weights: Weights, chosen: Mapping[str, Any]
) -> int:
    """Returns the steps of about four minutes, and more for many photographs."""
    least, most = _CPU_MINUTES
    minutes = min(max(data.num_images / _PHOTOGRAPHS_PER_MINUTE, least), most)
    patches = chosen["image_size"] // patch_size(weights)
    cost = _cost(weights.variant, patches=patches)
    images = minutes * machine.cores * _IMAGES_PER_CORE_MINUTE / cost
    steps = images / chosen["batch_size"]
    return max(20, round(steps / 10) * 10)


def _cost(variant: str, *, patches: int) -> float:
    """Returns the time of an image, in that of one of 192 pixels in an EoMT-S."""
    sizes, small = get_variant(variant), get_variant("small")
    products = sizes.depth * sizes.embed_dim**2 * patches**2
    products /= small.depth * small.embed_dim**2 * (192 // 16) ** 2
    return _FIXED_COST + (1 - _FIXED_COST) * products


def smaller(chosen: Mapping[str, Any], *, rows: int, patch: int) -> Iterator[dict]:
    """Yields what to try, from the choices to what needs less and less memory.

    One photograph a pass costs no time, and computing blocks again a third more.

    Args:
      chosen: from `choose`.
      rows: see above.
      patch: side of a patch in pixels.
    """
    one_a_pass = {**chosen, "accumulation": rows}
    again = {**one_a_pass, "remat": True}
    yield dict(chosen)
    yield one_a_pass
    yield again
    for share in (0.75, 0.5):
        side = int(chosen["image_size"] * share) // patch * patch
        yield {**again, "image_size": max(patch, side)}


def first_that_fits(
    candidates: Iterator[dict],
    given: Mapping[str, Any],
    fits: Callable[[dict], bool],
) -> dict:
    """Returns the first candidate that keeps the user's values and fits.

    Raises:
      ValueError: none fits.
    """
    tried = []
    for candidate in candidates:
        kept = {**candidate, **{k: v for k, v in given.items() if k in candidate}}
        if kept in tried:
            continue
        tried.append(kept)
        if fits(kept):
            return kept
    last = tried[-1]
    raise ValueError(
        "no step fits the device's memory, not even one photograph at a time of "
        f"{last['image_size']} pixels: give smaller --weights, or a smaller --image_size"
    )
