"""A network starts from a backbone, from nothing, or as a run that is resumed."""

import jax
import numpy as np
import pytest

from eomt_jax.training.reporting.parameter_report import GroupReport
from eomt_jax.training.state import param_shapes
from eomt_jax.weights.native import model_folder
from tests.training.initialization.conftest import build, rows


def test_without_backbone_everything_is_new():
    result = build()
    assert result.loaded is None
    assert result.model.vit.num_register_tokens == 4
    total = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(result.model)))
    assert sum(row.new for row in result.report) == total
    assert all(row.loaded == row.resampled == 0 for row in result.report)
    assert result.model.vit.layer_scale_init == 1e-5
    assert "WARNING: no weights of a backbone are loaded" in result.warning
    assert "--config.init.from_scratch=true" in result.warning


def test_training_from_scratch_on_purpose_is_silent_and_scales_layers_by_one():
    result = build(from_scratch=True)
    assert (result.model.vit.layer_scale_init, result.warning) == (1.0, "")
    assert build("tiny", image_size=(64, 64)).warning == ""


def test_training_from_scratch_contradicts_weights(backbone):
    with pytest.raises(ValueError, match="init.from_scratch = True contradicts"):
        build(backbone=backbone[0], from_scratch=True)
    assert build(backbone=backbone[0]).warning == ""


def test_backbone_of_the_same_sizes_is_loaded_bit_for_bit(backbone):
    folder, params = backbone
    result = build(backbone=folder)
    jax.tree.map(np.testing.assert_array_equal, result.loaded, {"vit": params})
    report = rows(result)
    assert report["vit position embedding"] == GroupReport(
        "vit position embedding", loaded=4 * 4 * 16
    )
    assert report["queries"] == GroupReport("queries", new=4 * 16)
    assert sum(row.resampled for row in result.report) == 0


def test_registers_follow_the_backbone(backbone):
    result = build(backbone=backbone[0])
    assert result.model.vit.num_register_tokens == 0
    assert rows(result)["vit prefix tokens"].total == 16
    shapes = param_shapes(result.model)
    assert jax.tree.structure(shapes["vit"]) == jax.tree.structure(backbone[1])


def test_other_sizes_are_resampled_and_said_so(backbone):
    result = build(backbone=backbone[0], patch_size=16, image_size=(48, 96))
    report = rows(result)
    assert report["vit patch embedding"] == GroupReport(
        "vit patch embedding", loaded=16, resampled=16 * 16 * 3 * 16
    )
    assert report["vit position embedding"].resampled == 3 * 6 * 16
    assert result.model.vit.image_size == (48, 96)
    jax.tree.map(
        lambda leaf, shape: np.testing.assert_equal(leaf.shape, shape.shape),
        result.loaded["vit"],
        param_shapes(result.model)["vit"],
    )


def test_dtype_and_remat_are_the_configs_not_the_backbones(backbone):
    model = build(backbone=backbone[0], dtype="bfloat16", remat=True).model
    assert model.vit.dtype == np.dtype("bfloat16") and model.vit.remat


def test_backbone_of_another_variant_raises_and_names_the_right_one(backbone):
    message = r"embed_dim 16 instead of 24, .*set model.variant = 'micro'"
    with pytest.raises(ValueError, match=message):
        build("wide", backbone=backbone[0])


def test_rotary_backbone_has_no_positions_to_load_or_resample(rotary_backbone):
    folder, params = rotary_backbone
    result = build("rotary", backbone=folder, image_size=(48, 64))
    jax.tree.map(np.testing.assert_array_equal, result.loaded, {"vit": params})
    assert "vit position embedding" not in rows(result)
    assert sum(row.resampled for row in result.report) == 0
    vit = result.model.vit
    assert (vit.positions, vit.layer_norm_eps) == ("rotary", 1e-5)
    assert vit.image_size == (48, 64)


def test_rotary_and_learned_positions_of_one_size_are_told_apart(
    backbone, rotary_backbone
):
    message = r"qkv_bias 'no_key' instead of 'all', .*set model.variant = 'rotary'"
    with pytest.raises(ValueError, match=message):
        build("micro", backbone=rotary_backbone[0])
    with pytest.raises(ValueError, match="set model.variant = 'micro'"):
        build("rotary", backbone=backbone[0])


def test_backbone_of_a_whole_eomt_leaves_its_heads(checkpoint):
    folder, params = checkpoint
    result = build(backbone=folder, class_names=("a", "b"), num_queries=7)
    jax.tree.map(np.testing.assert_array_equal, result.loaded, {"vit": params["vit"]})
    assert rows(result)["queries"] == GroupReport("queries", new=7 * 16)


def test_resumed_network_is_what_was_written_of_it_at_the_configs_sizes(backbone):
    result = build(backbone=backbone[0])
    written = model_folder.ModelConfig.of(result.model.clone(num_query_blocks=2))
    again = build(
        backbone="gone.pth", checkpoint="gone", resumed=written, dtype="float32"
    )
    assert again.loaded is None and again.report == ()
    dtype = np.dtype("float32")
    expected = result.model.clone(
        num_query_blocks=2, vit=result.model.vit.clone(dtype=dtype)
    )
    assert again.model == expected
    with pytest.raises(ValueError, match="resumed is not of model.variant = 'wide'"):
        build("wide", resumed=written)
