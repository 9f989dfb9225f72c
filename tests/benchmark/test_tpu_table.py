"""The table of slices holds every recipe, with the numbers of its files."""

import json
import pathlib

from configs import ladder
from eomt_jax.benchmark import tpu_table

ROOT = pathlib.Path(__file__).parent.parent.parent
# These configs have no published dataset.
OTHERS = {"common", "quickstart", "finetune", "ladder", "__init__"}


def test_every_published_recipe_has_a_plan():
    recipes = {path.stem for path in (ROOT / "configs").glob("*.py")} - OTHERS
    # Its last two steps are EoMT, whose programs the other recipes have.
    recipes |= {f"ladder:0_{base}" for base in ladder.BASES if base != "tiny"}
    recipes |= {f"ladder:{step}_large" for step in (1, 2, 3)}
    planned = {plan.recipe for plan in tpu_table.PLANS}
    assert planned | set(tpu_table.SAME) == recipes
    assert set(tpu_table.SAME.values()) <= planned
    assert len({plan.file for plan in tpu_table.PLANS}) == len(tpu_table.PLANS)


def test_results_are_those_of_the_plans():
    for plan in tpu_table.PLANS:
        file = ROOT / plan.file
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        assert result["target"] == plan.slice_name
        options = dict(option.split("=") for option in plan.options)
        assert result["accumulation"] == int(options.get("accumulation", 1))
        assert result["mesh"]["fsdp"] == int(options.get("mesh.fsdp", 1))
        for program in result["programs"]:
            assert program["memory_share"] <= 0.9, (plan.recipe, program["name"])


def test_table_is_written_from_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (
        pathlib.Path("docs/tpu_slices.md")
        .read_text()
        .endswith(tpu_table.format_table())
    )
