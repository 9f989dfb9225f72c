import jax
import numpy as np
from safetensors.numpy import save_file

import eomt_jax
from eomt_jax.cli import convert


def timm_tensors() -> dict[str, np.ndarray]:
    """A ViT of one block, width 64, with timm's names and two registers."""
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


def test_converted_backbone_loads_as_the_original_does(tmp_path, capsys):
    source, out = tmp_path / "timm.safetensors", tmp_path / "out"
    save_file(timm_tensors(), source)
    assert convert.main([str(source), str(out), "--patch_size=14"]) == 0
    assert "1 blocks, 2 register tokens" in capsys.readouterr().out
    for options in ({"patch_size": 14}, {"image_size": (48, 32)}):
        expected_vit, expected = eomt_jax.load_backbone(source, **options)
        vit, params = eomt_jax.load_backbone(out, **options)
        assert vit == expected_vit
        jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_what_cannot_be_converted_ends_in_one_line(tmp_path, capsys):
    assert convert.main([str(tmp_path / "no.pth"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
