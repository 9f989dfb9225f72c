"""Recipes load, are locked, and have no field that no code reads."""

import importlib
import re

import pytest

from configs import common
from eomt_jax.models import variants
from eomt_jax.options import from_config
from eomt_jax.training.options import RunOptions
from eomt_jax.training.run_schedule import configured_annealing_steps, count_steps
from tests.configs.golden import RECIPES, ROOT, fields, get_config

# Number of COCO's photographs with panoptic annotations.
COCO_IMAGES = 118_262


def names(config):
    return [name for name, _ in fields(config)]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_locked_and_has_the_fields_of_common(name):
    config = get_config(name)
    assert config.is_locked
    assert names(config) == names(common.get_config())
    variants.get_variant(config.model.variant)
    assert config.image_size % config.model.patch_size == 0


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_its_command(name):
    command = f"python train.py --config=configs/{name}.py --workdir="
    assert command in importlib.import_module(f"configs.{name}").__doc__


def test_every_field_has_a_reader():
    sources = [*(ROOT / "eomt_jax").rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"]
    text = "\n".join(path.read_text() for path in sources)

    def has_reader(field):
        *section, name = field.split(".")
        # In a call with **vars(section), a field that no parameter takes is an error.
        if section and f"**vars(config.{section[0]})" in text:
            return True
        # A component reads the options that it is given or, as Criterion, its own.
        readers = "|".join(["config", "options", "data", "self", *section])
        return re.search(rf"\b({readers})\.{name}\b", text)

    assert [f for f in names(common.get_config()) if not has_reader(f)] == []
    assert not has_reader("eval.nesterov") and not has_reader("nesterov")


# (starts, ends) in the release's configs/**/*.yaml.
COCO = ((14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910))
COCO_2X = ((29564, 73910, 118256), (59128, 103474, 147820))
COCO_1X_3 = ((14782, 36955, 59128), (29564, 51737, 73910))
COCO_5 = ((14782, 25869, 36955, 48042, 59128), (29564, 40651, 51737, 62824, 73910))
ADE20K = ((6520, 13040, 19560, 26080), (13040, 19560, 26080, 32600))
ADE20K_5 = ((6520, 11410, 16300, 21190, 26080), (13040, 17930, 22820, 27710, 32600))
CITYSCAPES = ((3317, 6634, 9951, 13268), (6634, 9951, 13268, 16585))
DINOV3_COCO = ((0, 29564, 44346, 59128), (3000, 44346, 59128, 73910))
DINOV3_COCO_2X = ((0, 73910, 118256), (3000, 103474, 147820))
DINOV3_ADE20K = ((0, 6520, 9780, 13040), (3000, 9780, 13040, 16300))


@pytest.mark.parametrize(
    "name, num_examples, total_steps, annealing",
    [
        ("coco_panoptic_vits_640_1x", COCO_IMAGES, 88_692, COCO_1X_3),
        ("coco_panoptic_vits_640_2x", COCO_IMAGES, 177_384, COCO_2X),
        ("coco_panoptic_vitb_640_1x", COCO_IMAGES, 88_692, COCO_1X_3),
        ("coco_panoptic_vitb_640_2x", COCO_IMAGES, 177_384, COCO_2X),
        ("coco_panoptic_vitl_640", COCO_IMAGES, 88_692, COCO),
        ("coco_panoptic_vitl_1280", COCO_IMAGES, 88_692, COCO),
        ("coco_panoptic_vitg_640", COCO_IMAGES, 88_692, COCO_5),
        ("coco_panoptic_vitg_1280", COCO_IMAGES, 88_692, COCO_5),
        ("coco_instance_vitl_640", 117_266, 87_948, COCO),
        ("coco_instance_vitl_1280", 117_266, 87_948, COCO),
        ("ade20k_vitl", 20_210, 39_153, ADE20K),
        ("ade20k_vitl_1280", 20_210, 39_153, ADE20K),
        ("ade20k_vitg", 20_210, 39_153, ADE20K_5),
        ("ade20k_vitg_1280", 20_210, 39_153, ADE20K_5),
        ("ade20k_semantic_vitl", 20_210, 39_153, ADE20K),
        ("cityscapes_semantic_vitl", 2_975, 19_795, CITYSCAPES),
        ("coco_panoptic_dinov3_vits_640_2x", COCO_IMAGES, 177_384, DINOV3_COCO_2X),
        ("coco_panoptic_dinov3_vitb_640_2x", COCO_IMAGES, 177_384, DINOV3_COCO_2X),
        ("coco_panoptic_dinov3_vitl_640", COCO_IMAGES, 88_692, DINOV3_COCO),
        ("coco_panoptic_dinov3_vitl_1280", COCO_IMAGES, 88_692, DINOV3_COCO),
        ("coco_instance_dinov3_vitl_640", 117_266, 87_948, COCO),
        ("coco_instance_dinov3_vitl_1280", 117_266, 87_948, COCO),
        ("ade20k_semantic_dinov3_vitl", 20_210, 20_208, DINOV3_ADE20K),
    ],
)
def test_published_recipe_has_the_published_length_and_annealing(
    name, num_examples, total_steps, annealing
):
    config = from_config(RunOptions, get_config(name))
    steps = count_steps(config, num_examples=num_examples)
    assert steps == total_steps
    # The published warm-ups are not shortened.
    assert config.optimizer.published_steps <= steps
    num_query_blocks = variants.get_variant(config.model.variant).num_query_blocks
    spans = configured_annealing_steps(
        config, total_steps=steps, num_masked_layers=num_query_blocks
    )
    assert spans == annealing


@pytest.mark.parametrize("name", [name for name in RECIPES if "dinov3" in name])
def test_dinov3_recipe_has_the_published_rates(name):
    config = get_config(name)
    options = config.optimizer
    assert options.learning_rate == 2e-4
    assert (options.warmup_head, options.warmup_vit) == (2000, 3000)
    variant = variants.get_variant(config.model.variant)
    assert variant.positions == "rotary"
    if "ade20k" in name:
        assert options.layer_decay == 1.0
    else:
        assert options.layer_decay == 0.8
        assert options.undecayed_blocks == variant.num_query_blocks


def test_published_numbers():
    config = common.get_config()
    assert (config.image_size, config.batch_size) == (640, 16)
    assert (config.model.patch_size, config.model.num_queries) == (16, 200)
    assert config.optimizer.to_dict() == {
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "layer_decay": 0.8,
        "undecayed_blocks": 0,
        "clip_norm": 0.01,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "moments_dtype": "float32",
        "warmup_head": 500,
        "warmup_vit": 1000,
        "power": 0.9,
        "published_steps": 88_692,
        "frozen_blocks": 0,
    }
    assert config.augmentation.scale_range == (0.1, 2.0)
    assert not config.augmentation.color_jitter


def test_table_of_recipes_says_what_they_are():
    rows = {}
    for line in (ROOT / "docs" / "recipes.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 1 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    assert sorted(rows) == RECIPES
    published = {name: cells for name, cells in rows.items() if len(cells) == 7}
    assert len(published) == 23
    for name, (dataset, score, px, queries, epochs, scale, jitter) in published.items():
        config = get_config(name)
        assert dataset == f"`{config.dataset.name}`", name
        assert (int(px), int(queries)) == (config.image_size, config.model.num_queries)
        assert int(epochs) == config.epochs
        low, high = scale.split("–")
        assert (float(low), float(high)) == config.augmentation.scale_range
        assert (jitter == "yes") == config.augmentation.color_jitter
        number, metric = score.split()[:2]
        docstring = importlib.import_module(f"configs.{name}").__doc__
        assert f"Published: {number} {metric}" in docstring, name
