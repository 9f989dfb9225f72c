"""The tables of GPUs hold every recipe, with the numbers of its files."""

import importlib
import json
import pathlib

import pytest

from eomt_jax.benchmark import gpu_points, gpu_table, hlo
from eomt_jax.benchmark.gpu_points import RECIPE_GROUPS, Point
from eomt_jax.benchmark.memory_line import MemoryLine

ROOT = pathlib.Path(__file__).parent.parent.parent
RECIPES = {path.stem for path in (ROOT / "configs").glob("*.py")}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_recipe_has_a_network():
    named = [name for group in RECIPE_GROUPS for name in (group.recipe, *group.same)]
    assert set(named) == RECIPES - {"common", "quickstart", "ladder", "__init__"}
    assert len(named) == len(set(named))


@pytest.mark.parametrize("group", RECIPE_GROUPS, ids=lambda group: group.recipe)
def test_recipes_of_a_row_have_the_same_network(group):
    fields = set()
    for name in (group.recipe, *group.same):
        config = importlib.import_module(f"configs.{name}").get_config()
        model = dict(config.model)
        del model["remat"]
        fields.add((config.image_size, *sorted(model.items())))
        assert config.batch_size == (8 if name == "finetune" else 16)
    assert len(fields) == 1


def test_every_result_is_one_of_the_points():
    points = [point for group in RECIPE_GROUPS for point in group.points]
    commands = {point.command for point in [*points, *gpu_points.CHECKS]}
    for file in (ROOT / "docs/gpus").glob("*.json"):
        results = json.loads(file.read_text())
        found = [result["command"] for result in results]
        assert set(found) <= commands and len(found) == len(set(found)), file
        for result in results:
            held = sum(result["held"].values())
            assert result["total"] == held + result["temporaries"]


@pytest.mark.parametrize(
    "recipe, num_blocks, num_heads",
    [
        ("coco_panoptic_vits_640_2x", 12, 6),
        ("coco_panoptic_vitb_640_2x", 12, 12),
        ("ade20k_vitl", 24, 16),
    ],
)
def test_cudnn_computes_attention_of_every_block(recipe, num_blocks, num_heads):
    group = next(group for group in RECIPE_GROUPS if group.recipe == recipe)
    for point in group.points:
        result = gpu_points.find_result(point)
        assert result is not None, point.command
        # With remat the backward pass computes the forward pass again.
        expected = {"cuDNN forward": num_blocks * (2 if point.remat else 1)}
        if point.program == "train":
            expected["cuDNN backward"] = num_blocks
        assert result["attention"] == expected, point.command
        # No array is as large as the float32 logits of all tokens would be.
        dtype, dims = result["largest_array"].rstrip("]").split("[")
        size = hlo.Array(dtype, tuple(map(int, dims.split(",")))).bytes
        assert size < 4 * point.batch * num_heads * 1605**2, point.command


def test_command_names_all_that_was_set():
    point = Point("ade20k_vitl", "train", 8, remat=True, accumulation=4)
    assert point.command == (
        "eomt-benchmark --compile-for=h200:1 --config=configs/ade20k_vitl.py "
        "--programs=train --config.batch_size=8 --config.model.remat=true "
        "--config.accumulation=4"
    )


def test_tables_are_written_from_the_results():
    text = pathlib.Path("docs/gpus.md").read_text()
    assert text.endswith(gpu_table.format_tables())


def test_missing_points_are_compiled_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("docs").mkdir()
    pathlib.Path("docs/gpus.md").write_text(f"Text.\n\n{gpu_table._MARK}old\n")
    commands, killed = [], {3}

    def run(command, check):
        assert not check
        commands.append(command)
        if len(commands) - 1 in killed:
            return
        options = dict(part.lstrip("-").split("=") for part in command[3:])
        field = {"train": "batch_size", "eval": "eval.batch_size"}[options["programs"]]
        program = dict.fromkeys(gpu_points._KEPT, 0)
        program["held"] = {"parameters": 1e9, "optimizer": 2e9, "batch": 1e6}
        program["total"] = 4e9 + int(options[f"config.{field}"]) * 1e9
        report = {"compiler": "XLA", "programs": [program]}
        pathlib.Path(options["out"]).write_text(json.dumps(report))

    monkeypatch.setattr(gpu_points.subprocess, "run", run)
    assert gpu_table.main(["ade20k_semantic_vitl"]) == 1
    assert len(commands) == 6
    assert "| `ade20k_semantic_vitl`" not in pathlib.Path("docs/gpus.md").read_text()
    # Called again, it compiles only the program that was killed.
    assert gpu_table.main(["ade20k_semantic_vitl"]) == 0
    assert len(commands) == 7
    assert commands[-1][:-1] == commands[3][:-1]
    text = pathlib.Path("docs/gpus.md").read_text()
    row = "| `ade20k_semantic_vitl` | off | 4.00 GB | 1.00 GB | 10 (2) | 17 (1) |"
    assert text.startswith("Text.\n") and row in text and "old" not in text
    # A prediction needs no state of the optimizer.
    assert "| `ade20k_semantic_vitl` | 2.00 GB | 1.00 GB | 12 | 19 |" in text


def test_cells_say_how_many_fit_and_in_how_many_passes():
    # Of the H200's 151 GB 135.3 are usable, of which 76.2 are fixed. The rest takes 5
    # images. 16 images go in 4 passes of 4, with 2 GB of gradients beside them.
    line = MemoryLine(fixed=76.2e9, per_image=10e9)
    result = {"held": {"parameters": 2e9, "batch": 4e6}, "batch": 2}
    assert gpu_table._training_cell(line, result, "h200") == "5 (4)"
    assert gpu_table._training_cell(line, result, "rtx4090") == "–"
    small = MemoryLine(fixed=1e9, per_image=0.1e9)
    assert gpu_table._training_cell(small, result, "h200") == "128+ (1)"
