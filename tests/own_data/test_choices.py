"""Sizes of a training follow from the device, the data and the weights."""

import pytest

from eomt_jax.options import from_config
from eomt_jax.own_data import choices
from eomt_jax.own_data.choices import Data, Machine
from eomt_jax.own_data.recipe import finetune_config, run_config
from eomt_jax.own_data.weights import BACKBONE, CHECKPOINT, Weights
from eomt_jax.training.options import RunOptions

LAPTOP = Machine("cpu", "cpu", 1, cores=2)
GPU = Machine("gpu", "NVIDIA A10G", 1, cores=8)
TWENTY = Data(num_images=16, max_side=640, max_segments=14)
SMALL = Weights("vits14.safetensors", BACKBONE, "small", "It starts from …")
SCRATCH = Weights("", "", "tiny", "from scratch")


def choose(machine=LAPTOP, data=TWENTY, weights=SMALL, **given):
    return choices.choose(machine, data, weights, given)


def test_choose_for_two_cores():
    assert choose() == {
        "validation": 0.2,
        "image_size": 192,
        "batch_size": 4,
        "accumulation": 1,
        "remat": False,
        "dtype": "float32",
        "steps": 210,
        "learning_rate": 3e-4,
        "frozen_blocks": 6,
        "num_queries": 50,
        "seed": 0,
        "tracker": "",
    }


def test_choose_steps_by_cores_photographs_and_cost():
    assert choose(Machine("cpu", "cpu", 1, cores=4))["steps"] == 420
    assert choose(data=Data(160, 640, 14))["steps"] == 840
    assert choose(data=Data(5000, 640, 14))["steps"] == 1580
    # Patches of twice as many pixels to a side are a quarter as many, and base has
    # four times as many weights; each image costs a little whatever its size.
    assert choose(image_size=96)["steps"] == 770
    base = Weights("vitb14.safetensors", BACKBONE, "base", "")
    assert choose(weights=base)["steps"] == 50
    assert choose(image_size=2048)["steps"] == 20


def test_choose_for_a_gpu():
    chosen = choose(GPU)
    assert (chosen["image_size"], chosen["batch_size"], chosen["steps"]) == (
        640,
        8,
        2000,
    )
    assert (chosen["dtype"], chosen["learning_rate"]) == ("bfloat16", 1e-4)
    assert chosen["frozen_blocks"] == 6
    assert choose(GPU, Data(300, 640, 14))["frozen_blocks"] == 0
    assert choose(Machine("gpu", "A10G", 3, cores=8))["batch_size"] == 9


def test_choose_fits_photographs_segments_and_weights():
    assert choose(data=Data(16, 100, 14))["image_size"] == 112
    assert choose(data=Data(16, 640, 70))["num_queries"] == 70
    assert choose(data=Data(3, 640, 14))["batch_size"] == 3
    trained = Weights("eomt", CHECKPOINT, "small", "", num_queries=200, patch_size=14)
    assert choose(weights=trained)["num_queries"] == 200
    assert choose(weights=trained)["image_size"] == 182
    scratch = choose(weights=SCRATCH)
    assert scratch["image_size"] == 128
    assert (scratch["frozen_blocks"], scratch["learning_rate"]) == (0, 1e-3)


def test_choose_keeps_what_is_given():
    assert choose(steps=7, remat=True, seed=None) == {
        **choose(),
        "steps": 7,
        "remat": True,
    }


@pytest.mark.parametrize(
    ("room", "wanted"),
    [
        (99, {}),
        (8, {}),
        (7, {"accumulation": 8}),
        (0.9, {"accumulation": 8, "remat": True}),
        (0.3, {"accumulation": 8, "remat": True, "image_size": 480}),
        (0.2, {"accumulation": 8, "remat": True, "image_size": 320}),
    ],
)
def test_first_that_fits_takes_what_costs_least(room, wanted):
    start = choose(GPU)
    tried = []

    def fits(chosen):
        tried.append(chosen)
        images = chosen["batch_size"] / chosen["accumulation"]
        share = (chosen["image_size"] / 640) ** 2
        return images * share * (0.4 if chosen["remat"] else 1) <= room

    candidates = choices.smaller(start, rows=8, patch=16)
    assert choices.first_that_fits(candidates, {}, fits) == {**start, **wanted}
    assert len(tried) <= 5


def test_first_that_fits_changes_nothing_that_is_given():
    start = choose(GPU, image_size=640, remat=False)
    given = {"image_size": 640, "remat": False}
    tried = []
    candidates = choices.smaller(start, rows=8, patch=16)
    with pytest.raises(ValueError, match="not even one photograph .* of 640 pixels"):
        choices.first_that_fits(candidates, given, lambda c: tried.append(c))
    assert tried == [start, {**start, "accumulation": 8}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": 5}, "there is no option step; there are weights, validation"),
        ({"steps": 0}, "--steps=0: it must be a whole number from 1"),
        ({"validation": 1.0}, "--validation=1.0: it must be a number from 0.01"),
        ({"dtype": "int8"}, "--dtype='int8': it must be one of"),
        ({"ignore_label": -1}, "--ignore_label=-1: it must be a whole number"),
    ],
)
def test_check_names_the_option_and_its_range(given, message):
    with pytest.raises(ValueError, match=message):
        choices.check(given)
    choices.check(dict.fromkeys(choices.OPTIONS))


def test_check_with_weights_names_the_size_and_what_is_frozen():
    choices.check_with_weights({"image_size": 96, "frozen_blocks": 6}, SMALL)
    choices.check_with_weights({"image_size": 72, "frozen_blocks": 0}, SCRATCH)
    with pytest.raises(ValueError, match="--image_size=100 is no multiple of 16.* 96"):
        choices.check_with_weights({"image_size": 100}, SMALL)
    with pytest.raises(ValueError, match="--frozen_blocks=-1 would freeze weights dr"):
        choices.check_with_weights({"frozen_blocks": -1}, SCRATCH)


def configured(weights, **given):
    config = run_config(
        choose(weights=weights, **given),
        weights,
        data_dir="runs/mine/data",
        task="",
        class_names=["Person", "bolt"],
    )
    return from_config(RunOptions, config)


def test_run_config_holds_the_choices():
    config = configured(SMALL, steps=100, accumulation=2, tracker="mlflow")
    assert (config.total_steps, config.accumulation) == (100, 2)
    assert (config.eval.every_steps, config.checkpoint.every_steps) == (50, 25)
    assert (config.init.backbone, config.model.variant) == (SMALL.path, "small")
    assert config.optimizer.frozen_blocks == 6
    assert config.logging.tracker == "mlflow"
    scratch = configured(SCRATCH)
    assert scratch.init.from_scratch and scratch.model.patch_size == 8
    assert scratch.optimizer.clip_norm == 1.0
    assert finetune_config().total_steps == 2000


@pytest.mark.parametrize(
    ("names", "head"),
    [(("person", "sky"), "by_name"), (("sky",), "auto"), ((), "auto")],
)
def test_run_config_keeps_classes_of_the_same_name(names, head):
    weights = Weights("x", CHECKPOINT, "small", "", 50, 16, class_names=names)
    config = configured(weights)
    assert (config.init.checkpoint, config.init.class_head) == ("x", head)
