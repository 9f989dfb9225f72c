"""Writes the table of docs/tpu_slices.md: on which slices the published recipes fit.

  python -m eomt_jax.benchmark.tpu_table

Run it in the repository. It compiles the recipes that have no numbers in
docs/tpu_slices/, which takes minutes each, and writes the table after each of them. It
may be stopped at any time and continues when it is run again; to compile a recipe
again, delete its file first. Recipes named as arguments are compiled alone.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_CONFIGS = pathlib.Path("configs")
_RESULTS = pathlib.Path("docs/tpu_slices")
_TABLE = pathlib.Path("docs/tpu_slices.md")
_MARK = "<!-- written by eomt_jax.benchmark.tpu_table -->\n"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe and the slice that it is compiled for.

    Attributes:
      recipe: file of configs/ without its ending; with its argument after a colon.
      slice_name: libtpu's name of the slice.
      options: fields that are set, as on the command line.
      note: a remark on what is special about it.
    """

    recipe: str
    slice_name: str
    options: tuple[str, ...] = ()
    note: str = ""

    @property
    def file(self) -> pathlib.Path:
        name = f"{self.recipe}-{self.slice_name}".replace(":", "-")
        if batch := [o for o in self.options if o.startswith("batch_size=")]:
            name += f"-batch_{batch[0].partition('=')[2]}"
        return _RESULTS / f"{name}.json"

    @property
    def command(self) -> list[str]:
        name, colon, argument = self.recipe.partition(":")
        return [
            *(sys.executable, "-m", "eomt_jax.cli.benchmark"),
            f"--compile-for={self.slice_name}",
            f"--config={_CONFIGS / name}.py{colon}{argument}",
            *(f"--config.{option}" for option in self.options),
            f"--out={self.file}",
        ]


# One chip computes the published batch of 16 in 16 passes; large and base need remat
# for that. The giant's state alone is larger than a v5e chip's memory.
_ONE_CHIP = ("accumulation=16", "eval.batch_size=1")
_REMAT = ("model.remat=True",)
_FOUR_CHIPS = ("mesh.fsdp=4", "accumulation=4", "eval.batch_size=4")
# An adapter normalises over the batch, which cannot be computed in passes.
_A_CHIP_EACH = ("mesh.data=16", *_REMAT)

PLANS = (
    Plan(
        "coco_panoptic_vitl_640",
        "v5e:4x4",
        ("batch_size=128", "mesh.fsdp=16", *_REMAT),
    ),
    Plan("coco_panoptic_vitg_1280", "v5e:2x2", _FOUR_CHIPS),
    Plan("ade20k_vitl", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("coco_panoptic_vitl_640", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("coco_panoptic_vitl_1280", "v5e:1x1", _ONE_CHIP),
    Plan("coco_panoptic_vitg_640", "v5e:2x2", _FOUR_CHIPS),
    Plan("coco_panoptic_vits_640_2x", "v5e:1x1", _ONE_CHIP),
    Plan("coco_panoptic_vitb_640_2x", "v5e:1x1", _ONE_CHIP),
    Plan("ade20k_semantic_vitl", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("cityscapes_semantic_vitl", "v5e:1x1", _ONE_CHIP),
    Plan("coco_instance_vitl_640", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("coco_panoptic_dinov3_vitl_640", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("coco_instance_vitl_1280", "v5e:1x1", _ONE_CHIP),
    Plan("coco_panoptic_dinov3_vits_640_2x", "v5e:1x1", _ONE_CHIP),
    Plan("coco_panoptic_dinov3_vitb_640_2x", "v5e:1x1", _ONE_CHIP),
    Plan("coco_panoptic_dinov3_vitl_1280", "v5e:1x1", _ONE_CHIP),
    Plan("ade20k_semantic_dinov3_vitl", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("ade20k_vitl_1280", "v5e:1x1", _ONE_CHIP),
    Plan("ade20k_vitg", "v5e:2x2", _FOUR_CHIPS),
    Plan("ade20k_vitg_1280", "v5e:2x2", _FOUR_CHIPS),
    Plan("coco_instance_dinov3_vitl_640", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("coco_instance_dinov3_vitl_1280", "v5e:1x1", _ONE_CHIP),
    Plan("ladder:0_large", "v5e:4x4", _A_CHIP_EACH),
    Plan("ladder:1_large", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("ladder:2_large", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("ladder:3_large", "v5e:1x1", (*_ONE_CHIP, *_REMAT)),
    Plan("ladder:0_small", "v5e:4x4", _A_CHIP_EACH),
    Plan("ladder:0_base", "v5e:4x4", _A_CHIP_EACH),
    Plan("ladder:0_giant", "v5e:4x4", ("mesh.fsdp=16", *_REMAT)),
    Plan("ladder:0_large_coco_instance", "v5e:4x4", _A_CHIP_EACH),
    Plan("ladder:0_large_ade20k", "v5e:4x4", _A_CHIP_EACH),
    Plan("ladder:0_large_ade20k_semantic", "v5e:4x4", _A_CHIP_EACH),
    Plan("ladder:0_large_cityscapes", "v5e:4x4", _A_CHIP_EACH),
)

_COLUMNS = (
    "recipe",
    "slice",
    "data × fsdp × tensor",
    "batch",
    "passes",
    "remat",
    "training",
    "evaluation",
    "FLOPs a step",
    "images/s",
)

# Maps a recipe to others with the same programs, which differ in the number of steps.
SAME = {
    "coco_panoptic_vits_640_1x": "coco_panoptic_vits_640_2x",
    "coco_panoptic_vitb_640_1x": "coco_panoptic_vitb_640_2x",
}


def main(recipes: Sequence[str]) -> int:
    """Compiles what is missing and writes the table."""
    unknown = set(recipes) - {plan.recipe for plan in PLANS}
    if unknown:
        print(f"error: no plan for {', '.join(sorted(unknown))}", file=sys.stderr)
        return 1
    _RESULTS.mkdir(parents=True, exist_ok=True)
    failed = 0
    for plan in PLANS:
        if plan.file.exists() or (recipes and plan.recipe not in recipes):
            continue
        print(" ".join(plan.command[1:]), flush=True)
        subprocess.run(plan.command, check=False)
        failed += not plan.file.exists()
        write_table()
    write_table()
    return min(failed, 1)


def write_table() -> None:
    """Replaces the part of docs/tpu_slices.md below its mark."""
    text, mark, _ = _TABLE.read_text().partition(_MARK)
    if not mark:
        raise ValueError(f"{_TABLE} has no line {_MARK.strip()}")
    _TABLE.write_text(text + mark + format_table())


def format_table() -> str:
    """Returns Markdown of all results that are there."""
    lines = ["", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    rest = []
    for plan in PLANS:
        names = [plan.recipe, *(a for a, b in SAME.items() if b == plan.recipe)]
        recipe = ", ".join(f"`{name}`" for name in names)
        if plan.file.exists():
            lines.append(_row(recipe, json.loads(plan.file.read_text())))
        else:
            rest.append(f"{recipe} on {plan.slice_name}")
    if rest:
        lines += ["", f"Not compiled yet: {', '.join(rest)}."]
    return "\n".join(lines) + "\n"


def _row(recipe: str, result: dict[str, Any]) -> str:
    programs = {program["name"]: program for program in result["programs"]}
    train, evaluation = programs["train"], programs["eval"]
    cells = [
        recipe,
        result["target"],
        " × ".join(str(size) for size in result["mesh"].values()),
        str(result["batch_size"]),
        str(result["accumulation"]),
        "on" if result["remat"] else "off",
        _memory(train),
        _memory(evaluation),
        f"{train['flops'] / 1e12:.3g} T",
        f"{train['images_per_second']:.3g}" if train["fits"] else "–",
    ]
    return f"| {' | '.join(cells)} |"


def _memory(program: dict[str, Any]) -> str:
    share = f"{program['memory_share']:.0%}"
    return share if program["fits"] else f"does not fit: {share}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
