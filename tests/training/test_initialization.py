import jax
import numpy as np
import pytest

from eomt_jax.models import variants
from eomt_jax.training.initialization import GroupReport, format_report, initialize
from eomt_jax.training.state import param_shapes
from eomt_jax.weights import native


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A folder with a ViT of the variant `micro`, 32 pixels wide, without registers."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        vit = variants.create_vit(
            "micro", image_size=(32, 32), patch_size=8, num_register_tokens=0
        )
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8)
    shapes = jax.eval_shape(vit.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes
    )
    folder = tmp_path_factory.mktemp("backbone") / "vit"
    native.save(folder, vit, params)
    return folder, params


def register(patch):
    patch.setitem(variants.VARIANTS, "micro", variants.Variant(16, 2, 2, 32, 1))
    patch.setitem(variants.VARIANTS, "wide", variants.Variant(24, 2, 2, 48, 1))


@pytest.fixture(autouse=True)
def small_variants(monkeypatch):
    register(monkeypatch)


def build(variant="micro", **changes):
    options = {"num_classes": 3, "num_queries": 4, "image_size": (32, 32)}
    return initialize(variant, **{**options, "patch_size": 8, **changes})


def rows(initialization):
    return {row.group: row for row in initialization.report}


def test_without_backbone_everything_is_new():
    result = build()
    assert result.loaded is None
    assert result.model.vit.num_register_tokens == 4
    total = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(result.model)))
    assert sum(row.new for row in result.report) == total
    assert all(row.loaded == row.resampled == 0 for row in result.report)


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


def test_format_report_aligns_and_sums(backbone):
    lines = format_report(build(backbone=backbone[0]).report).split("\n")
    assert lines[0].split() == ["parameters", "loaded", "resampled", "new", "total"]
    assert len({len(line) for line in lines}) == 1
    total = lines[-1].split()[-1].replace(",", "")
    params = jax.tree.leaves(param_shapes(build(backbone=backbone[0]).model))
    assert int(total) == sum(leaf.size for leaf in params)
