import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import eomt_jax
from eomt_jax.cli import convert
from eomt_jax.dataset_info import published_info
from eomt_jax.weights.foreign import huggingface, name_maps
from eomt_jax.weights.load import open_network
from eomt_jax.weights.native import model_folder
from tests.weights.foreign import test_eomt
from tests.weights.foreign.test_huggingface import small_eomt


def timm_tensors() -> dict[str, np.ndarray]:
    """Returns a ViT of one block, width 64, with timm's names and two registers."""
    shapes = {
        "cls_token": (1, 1, 64),
        "reg_token": (1, 2, 64),
        "pos_embed": (1, 4, 64),
        "patch_embed.proj.weight": (64, 3, 14, 14),
        "blocks.0.attn.qkv.weight": (192, 64),
        "blocks.0.attn.qkv.bias": (192,),
        "blocks.0.attn.proj.weight": (64, 64),
        "blocks.0.mlp.fc1.weight": (96, 64),
        "blocks.0.mlp.fc1.bias": (96,),
        "blocks.0.mlp.fc2.weight": (64, 96),
    }
    block = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]
    block += ["attn.proj.bias", "mlp.fc2.bias", "ls1.gamma", "ls2.gamma"]
    vectors = ["patch_embed.proj.bias", "norm.weight", "norm.bias"]
    vectors += [f"blocks.0.{name}" for name in block]
    shapes |= dict.fromkeys(vectors, (64,))
    rng = np.random.default_rng(0)
    return {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}


@pytest.fixture
def backbone(tmp_path):
    save_file(timm_tensors(), tmp_path / "timm.safetensors")
    return tmp_path / "timm.safetensors"


@pytest.fixture(scope="module")
def eomts(tmp_path_factory):
    """Returns an EoMT of 80 classes as two Hugging Face folders, one without names."""
    folder = tmp_path_factory.mktemp("eomts")
    model, params = small_eomt()
    info = published_info("coco_instance")
    huggingface.save(folder / "named", model, params, dataset_info=info)
    huggingface.save(folder / "unnamed", model, params)
    return folder


@pytest.mark.parametrize("out", ["out", "out.safetensors"])
def test_converted_backbone_loads_as_the_original_does(out, backbone, tmp_path, capsys):
    out = tmp_path / out
    assert convert.main([str(backbone), str(out), "--patch_size=14"]) == 0
    assert "1 blocks, 2 register tokens" in capsys.readouterr().out
    for options in ({"patch_size": 14}, {"image_size": (48, 32)}):
        expected_vit, expected = eomt_jax.load_backbone(backbone, **options)
        vit, params = eomt_jax.load_backbone(out, **options)
        assert vit == expected_vit
        jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("to", convert.FORMATS)
def test_eomt_goes_to_every_form_and_stays_the_same(to, eomts, tmp_path, capsys):
    out = tmp_path / ("out.safetensors" if to == "safetensors" else "out")
    source = str(eomts / "named")
    assert convert.main([source, str(out), f"--to={to}", "--num_heads=2"]) == 0
    text = capsys.readouterr().out
    assert "EoMT of width 24, 2 blocks, 4 register tokens, 5 queries" in text
    assert "80 classes (coco_instance, instance)" in text
    assert "note" not in text
    expected, found = open_network(source), open_network(out)
    assert found.model == expected.model
    assert found.dataset_info == expected.dataset_info
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_suffix_decides_where_nothing_is_said(eomts, tmp_path):
    for name in ("out", "out.safetensors"):
        assert convert.main([str(eomts / "named"), str(tmp_path / name)]) == 0
    assert (tmp_path / "out" / model_folder.MODEL_FILE).exists()
    assert (tmp_path / "out.safetensors").is_file()


def test_classes_are_given_where_the_checkpoint_has_none(eomts, tmp_path, capsys):
    source, out = str(eomts / "unnamed"), str(tmp_path / "out")
    assert convert.main([source, out]) == 0
    assert "note: It doesn't say what its 80 classes" in capsys.readouterr().out
    assert convert.main([source, f"{out}2", "--dataset=coco_instance"]) == 0
    assert "note" not in capsys.readouterr().out
    assert open_network(f"{out}2").dataset_info == published_info("coco_instance")


def test_size_is_another_one_where_asked_for(eomts, tmp_path, capsys):
    arguments = [str(eomts / "named"), str(tmp_path / "out")]
    assert convert.main([*arguments, "--image_size", "32", "48"]) == 0
    assert "note: Its position embedding was resampled" in capsys.readouterr().out
    model, _ = eomt_jax.load(tmp_path / "out")
    assert model.vit.image_size == (32, 48)


def test_difference_and_backbone_come_out_whole(tmp_path):
    source, out = tmp_path / "delta.safetensors", tmp_path / "out"
    base = tmp_path / "base.safetensors"
    save_file(test_eomt.delta(), source)
    save_file(test_eomt.named_tensors(name_maps.DINOV3, seed=1), base)
    flags = [f"--backbone={base}", "--image_size", "64", "64", "--delta"]
    to = ["--to=huggingface", "--num_query_blocks=1"]
    assert convert.main([str(source), str(out), *flags, *to]) == 0
    size = (64, 64)
    expected = open_network(source, backbone=base, image_size=size).params
    jax.tree.map(np.testing.assert_array_equal, open_network(out).params, expected)
    assert convert.main([str(source), str(tmp_path / "whole"), "--no-delta"]) == 1


@pytest.mark.parametrize(
    "source, flags, message",
    [
        ("no.pth", [], "There is no checkpoint"),
        ("backbone", ["--to=huggingface"], "a backbone is there already"),
        ("backbone", ["--dataset=coco_panoptic"], "--dataset has no meaning"),
        ("backbone", ["--backbone=x"], "--backbone has no meaning"),
        ("backbone", ["--num_query_blocks=1"], "num_query_blocks"),
        ("named", ["--patch_size=8"], "only a backbone's are resampled"),
        ("named", ["--private"], "--private has no meaning without --push_to"),
        ("named", ["--no-picture"], "--no-picture has no meaning without"),
        ("named", ["--dataset=coco_panoptic"], "predicts 80 classes"),
        ("named", ["--dataset=nothing"], "nothing is neither a file"),
        ("named", ["--to=safetensors"], "must end in .safetensors"),
        ("named", ["--to=huggingface", "--image_size", "32", "48"], "square images"),
    ],
)
def test_what_cannot_be_converted_ends_in_one_line(
    source, flags, message, backbone, eomts, tmp_path, capsys
):
    path = {"backbone": backbone, "named": eomts / "named"}.get(source, source)
    assert convert.main([str(path), str(tmp_path / "out"), *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("eomt-convert: ")
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == [backbone.name]


@pytest.mark.parametrize("to", convert.FORMATS)
def test_nothing_is_written_over(to, eomts, tmp_path, capsys):
    for name in ("file.safetensors", "folder"):
        out = tmp_path / name
        mine = out
        if name == "folder":
            out.mkdir()
            mine = out / "mine"
        mine.write_text("mine")
        assert convert.main([str(eomts / "named"), str(out), f"--to={to}"]) == 1
        assert "exists already" in capsys.readouterr().err
        assert mine.read_text() == "mine"
