"""Programs are compiled for GPUs, if JAX's CUDA plugin is installed."""

import jax
import jax.numpy as jnp
import pytest

from eomt_jax.benchmark import ahead_of_time, compile_report
from eomt_jax.benchmark.flops import matmul_flops
from eomt_jax.benchmark.target import open_target
from eomt_jax.models import variants
from tests.training.conftest import make_config


def compile_for(name, tmp_path, monkeypatch, **fields):
    """Returns (run, target, programs) of a network with heads of 64 channels."""
    monkeypatch.setattr(variants, "VARIANTS", dict(variants.VARIANTS))
    variants.VARIANTS["micro"] = variants.Variant(128, 2, 2, 32, 1)
    config = make_config(str(tmp_path))
    config.dataset.name = "coco_panoptic"
    config.model.dtype = "bfloat16"
    config.criterion.matcher = "scipy"
    config.update_from_flattened_dict(fields)
    target = open_target(name)
    return target, *ahead_of_time.compile_config(config, target)


def test_program_for_one_card_calls_cudnn(tmp_path, monkeypatch):
    target, run, programs = compile_for("l4:1", tmp_path, monkeypatch)
    train, evaluation = programs
    # The queries of the second block attend with a mask, all other rows by cuDNN.
    assert train.attention == {"cuDNN forward": 2, "cuDNN backward": 2}
    assert evaluation.attention == {"cuDNN forward": 2}
    for program in programs:
        assert program.fits
        assert program.bytes_accessed > program.held["parameters"]
        assert program.total == sum(program.held.values()) + program.temporaries
    assert 0.9 < train.flops / train.model_flops < 1.5
    report = compile_report.format_report(run, target, programs)
    assert "attention           2 cuDNN forward, 2 cuDNN backward" in report
    assert "criterion.matcher=device stands in for scipy" in report
    assert run.config.criterion.matcher == "device"


def test_card_without_bfloat16_gets_products_in_float32(tmp_path, monkeypatch):
    target, run, programs = compile_for("t4:1", tmp_path, monkeypatch)
    assert all(program.attention == {} for program in programs)
    report = compile_report.format_report(run, target, programs)
    assert "compute capability 7.5 has no bfloat16 products" in report


def test_program_for_several_cards_sums_gradients(tmp_path, monkeypatch):
    fields = {"batch_size": 4, "eval.batch_size": 4, "mesh.fsdp": 2}
    _, _, (train, _) = compile_for("h100:4", tmp_path, monkeypatch, **fields)
    kinds = {part.kind: part for part in train.collectives}
    assert kinds["all-reduce"].wire_bytes > 0
    assert "all-gather" in kinds
    assert train.attention == {"cuDNN forward": 2, "cuDNN backward": 2}


@pytest.mark.parametrize("grad, products", [(False, 2), (True, 7)])
def test_products_inside_cudnn_are_counted(grad, products):
    x = jax.ShapeDtypeStruct((2, 16, 4, 64), "bfloat16")

    def attend(x):
        out = jax.nn.dot_product_attention(x, x, x, implementation="cudnn")
        return out.astype(jnp.float32).sum()

    traced = jax.make_jaxpr(jax.grad(attend) if grad else attend)(x)
    assert matmul_flops(traced) == products * 2 * (2 * 4) * (16 * 16 * 64)
