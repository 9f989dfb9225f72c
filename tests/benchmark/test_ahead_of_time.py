"""Compiling a config, here for CPU devices; .ci/tpu compiles for TPU chips."""

import dataclasses
import json

import jax
import pytest

from eomt_jax.benchmark import ahead_of_time, compile_report
from eomt_jax.benchmark.target import Device, Target
from eomt_jax.models import variants
from eomt_jax.training.state import param_shapes
from tests.training.conftest import make_config, register_micro_variant

CHIP = Device(1e9, 16e9, 1e9, 1e6)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Returns (run, target, programs) of a recipe whose dataset isn't prepared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "VARIANTS", dict(variants.VARIANTS))
        register_micro_variant()
        config = make_config(str(tmp_path_factory.mktemp("nothing_prepared")))
        config.dataset.name = "coco_panoptic"
        config.batch_size, config.accumulation = 8, 2
        config.eval.batch_size = 4
        config.mesh.fsdp = 2
        target = Target(
            "cpu:4", 4, CHIP, tuple(jax.devices()[:4]), "the CPU's compiler"
        )
        run, programs = ahead_of_time.compile_config(config, target)
    return run, target, programs


def test_memory_and_work_of_a_config_are_counted(compiled):
    run, _, (train, evaluation) = compiled
    leaves = jax.tree.leaves(param_shapes(run.initialization.model))
    whole = 4 * sum(leaf.size for leaf in leaves)
    for program in (train, evaluation):
        assert whole / 2 <= program.held["parameters"] < 0.7 * whole
        # The optimizer holds two moments of each parameter, and a counter.
        assert program.held["optimizer"] == 2 * program.held["parameters"] + 4
        assert program.fits
        assert program.temporaries > 0
        assert program.total == sum(program.held.values()) + program.temporaries
    # Each of a quarter of the devices has an image with its labels and ids.
    assert train.held["batch"] > 2 * 32 * 32 * 4
    assert evaluation.held["batch"] > 640 * 640
    assert (train.images, evaluation.images) == (8, 4)
    assert train.flops == 2 * train.traced_flops
    assert 0.9 < train.flops / train.model_flops < 1.5
    kinds = {part.kind for part in train.collectives}
    assert {"all-gather", "all-reduce"} <= kinds


def test_report_says_what_fits_and_how_fast(compiled):
    run, target, programs = compiled
    text = compile_report.format_report(run, target, programs)
    assert "train: 8 images, 2 on a device in 2 passes; remat off" in text
    assert "eval: 4 images, 1 on a device" in text
    assert "mesh data 2 × fsdp 2 × tensor 1" in text
    assert "DOES NOT FIT" not in text
    report = json.loads(json.dumps(compile_report.as_json(run, target, programs)))
    train = report["programs"][0]
    roofline = train["roofline_seconds"]
    assert roofline["compute"] == programs[0].flops / 4 / 1e9
    slowest = max(roofline["compute"] / compile_report.EFFICIENCY, roofline["links"])
    assert train["images_per_second"] == pytest.approx(8 / slowest)


def test_report_says_what_to_turn_where_it_does_not_fit(compiled):
    run, target, (train, evaluation) = compiled
    train = dataclasses.replace(train, available=train.total / 2)
    refused = dataclasses.replace(
        evaluation, temporaries=None, total=6e9, available=5e9, collectives=()
    )
    text = compile_report.format_report(run, target, [train, refused])
    assert text.count("DOES NOT FIT") == 2
    assert "--config.model.remat=true" in text
    assert "--config.mesh.fsdp=4" in text
    assert "1.00 GB too much" in text
    # A device has two rows, so there can't be more than the two passes.
    assert "--config.accumulation" not in text
