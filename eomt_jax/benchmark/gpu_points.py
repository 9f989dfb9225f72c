"""Lists the programs to compile for the tables of docs/gpus.md; reads their results."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

_RESULTS = pathlib.Path("docs/gpus")
_KEPT = (
    *("held", "temporaries", "total", "flops", "bytes_accessed", "attention"),
    *("largest_array", "roofline_seconds"),
)

# The memory that a program takes hardly depends on the card if its kernels are the
# same. For the largest card the compiler computes nothing twice to save memory.
_TARGET = "h200:1"


@dataclasses.dataclass(frozen=True)
class RecipeGroup:
    """Recipes of one variant and image size, whose training takes the same memory.

    Attributes:
      recipe: the recipe that is compiled, a file of configs/ without its ending; it has
        the most targets and the largest photographs.
      same: the other recipes.
      batches: batch sizes of the training step.
      eval_batches: batch sizes of the prediction.
    """

    recipe: str
    same: tuple[str, ...] = ()
    batches: tuple[int, ...] = (2, 8)
    eval_batches: tuple[int, ...] = (2, 8)

    @property
    def points(self) -> "list[Point]":
        train = [
            Point(self.recipe, "train", batch, remat)
            for remat in (False, True)
            for batch in self.batches
        ]
        return [*train, *(Point(self.recipe, "eval", b) for b in self.eval_batches)]


@dataclasses.dataclass(frozen=True)
class Point:
    """One program to compile.

    Attributes:
      recipe: file of configs/ without its ending.
      program: "train" or "eval".
      batch: batch size in images.
      remat: model.remat of the config, for training.
      accumulation: accumulation of the config, for training.
      target: name of the target that it is compiled for.
    """

    recipe: str
    program: str
    batch: int
    remat: bool = False
    accumulation: int = 1
    target: str = _TARGET

    @property
    def file(self) -> pathlib.Path:
        return _RESULTS / f"{self.recipe}.json"

    @property
    def command(self) -> str:
        options = {"eval.batch_size": self.batch}
        if self.program == "train":
            options = {"batch_size": self.batch, "model.remat": self.remat}
            options["accumulation"] = self.accumulation
        return " ".join(
            [
                f"eomt-benchmark --compile-for={self.target}",
                f"--config=configs/{self.recipe}.py --programs={self.program}",
                *(f"--config.{name}={str(x).lower()}" for name, x in options.items()),
            ]
        )


RECIPE_GROUPS = (
    RecipeGroup("coco_panoptic_vits_640_2x", ("coco_panoptic_vits_640_1x",)),
    RecipeGroup("coco_panoptic_vitb_640_2x", ("coco_panoptic_vitb_640_1x", "finetune")),
    RecipeGroup("ade20k_vitl", ("coco_panoptic_vitl_640", "coco_instance_vitl_640")),
    RecipeGroup("ade20k_semantic_vitl"),
    RecipeGroup("cityscapes_semantic_vitl", batches=(2, 6)),
    RecipeGroup(
        "ade20k_vitl_1280",
        ("coco_panoptic_vitl_1280", "coco_instance_vitl_1280"),
        batches=(2, 6),
    ),
    RecipeGroup("ade20k_vitg", ("coco_panoptic_vitg_640",)),
    RecipeGroup("ade20k_vitg_1280", ("coco_panoptic_vitg_1280",), batches=(1, 3)),
    RecipeGroup("coco_panoptic_dinov3_vits_640_2x"),
    RecipeGroup("coco_panoptic_dinov3_vitb_640_2x"),
    RecipeGroup("coco_panoptic_dinov3_vitl_640", ("coco_instance_dinov3_vitl_640",)),
    RecipeGroup(
        "coco_panoptic_dinov3_vitl_1280",
        ("coco_instance_dinov3_vitl_1280",),
        batches=(2, 6),
    ),
    RecipeGroup("ade20k_semantic_dinov3_vitl"),
)
# These points check what the tables assume: memory is a line in the batch size, and it
# is the same on other cards and in other recipes with the same network. They also show
# how much several passes take, and a card without bfloat16.
CHECKS = (
    Point("ade20k_vitl", "train", 16),
    Point("ade20k_vitl", "train", 24, remat=True),
    Point("ade20k_vitl", "train", 8, accumulation=4, remat=True),
    Point("ade20k_vitl", "train", 8, target="rtx4090:1"),
    Point("ade20k_vitl", "train", 8, target="a100_40gb:1"),
    Point("coco_instance_vitl_640", "train", 8),
    Point("coco_panoptic_vitl_640", "train", 4, target="h100:1"),
    Point("coco_panoptic_vitl_640", "eval", 1, target="h100:1"),
    Point("coco_panoptic_vitb_640_2x", "train", 2, target="t4:1"),
    Point("coco_panoptic_vitb_640_2x", "eval", 2, target="t4:1"),
)


def find_result(point: Point) -> dict[str, Any] | None:
    """Returns a point's result, or None if it isn't compiled yet."""
    found = (one for one in _read(point.file) if one["command"] == point.command)
    return next(found, None)


def _read(file: pathlib.Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text()) if file.exists() else []


def compile_point(point: Point) -> bool:
    """Compiles a point and keeps its result; returns whether there is one."""
    print(point.command, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        arguments = [*point.command.split()[1:], f"--out={out}"]
        subprocess.run(
            [sys.executable, "-m", "eomt_jax.cli.benchmark", *arguments], check=False
        )
        if not out.exists():
            return False
        report = json.loads(out.read_text())
    program = report["programs"][0]
    result = {"command": point.command, "compiler": report["compiler"]}
    result |= {"batch": point.batch} | {name: program[name] for name in _KEPT}
    _RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps([*_read(point.file), result], indent=2)
    point.file.write_text(text + "\n")
    return True
