"""DINOv3 backbones from Hugging Face's folders equal transformers' network."""

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import eomt_jax
from tests.parity.eomt_reference import to_pixel_values
from tests.parity.random_networks import randomize

pytestmark = pytest.mark.parity

# Widths are the published ones; there are fewer blocks, which saves time.
SHAPES = {
    "small": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
    },
    "large": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 3,
    },
    "huge": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 1,
        "use_gated_mlp": True,
        "hidden_act": "silu",
    },
    # This has the 7B's head width and biases, and a sixteenth of its width.
    "7b": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "use_gated_mlp": True,
        "hidden_act": "silu",
        "query_bias": False,
        "value_bias": False,
    },
}
TINY = {**SHAPES["7b"], "hidden_size": 64, "intermediate_size": 128}


def create_reference(**fields):
    config = transformers.DINOv3ViTConfig(
        **fields, num_register_tokens=4, image_size=64, layer_norm_eps=1e-5
    )
    return randomize(transformers.DINOv3ViTModel(config))


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_equal_torch_at_two_image_sizes(tmp_path, shape):
    reference = create_reference(**SHAPES[shape])
    reference.save_pretrained(tmp_path)
    for size in [(64, 64), (48, 96)]:
        vit, params = eomt_jax.load_backbone(tmp_path, image_size=size)
        images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
        got = jax.jit(vit.apply)({"params": params}, images)
        with torch.no_grad():
            expected = reference(pixel_values=to_pixel_values(images))
        expected = expected.last_hidden_state.numpy()
        assert expected.std() > 0.5
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_architecture_is_read_from_config_and_biases(tmp_path):
    create_reference(**TINY, rope_theta=50.0).save_pretrained(tmp_path)
    vit, _ = eomt_jax.load_backbone(tmp_path)
    assert (vit.positions, vit.mlp_type) == ("rotary", "swiglu")
    assert (vit.qkv_bias, vit.rope_theta, vit.layer_norm_eps) == ("none", 50.0, 1e-5)
    assert (vit.num_heads, vit.num_register_tokens) == (2, 4)
    assert vit.image_size == (64, 64)


def test_file_alone_tells_all_but_heads_of_another_width(tmp_path):
    reference = create_reference(**TINY)
    reference.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    (tmp_path / "config.json").unlink()
    vit, params = eomt_jax.load_backbone(file, num_heads=2)
    assert vit.layer_norm_eps == 1e-5
    # transformers 5 has other names in memory than in its files.
    names = reference.state_dict().keys()
    assert "model.layer.0.norm1.weight" in names
    assert "layer.0.norm1.weight" in load_file(file)
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    in_memory, same = eomt_jax.load_backbone(tmp_path / "weights.pth", num_heads=2)
    assert in_memory == vit
    jax.tree.map(np.testing.assert_array_equal, same, params)
