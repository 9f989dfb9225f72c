"""DINOv2 backbones in every published naming equal transformers' networks."""

import jax
import numpy as np
import pytest
import torch
import transformers

import eomt_jax
from tests.parity.eomt_reference import to_pixel_values
from tests.parity.random_networks import randomize

pytestmark = pytest.mark.parity

PATCH_SIZE = 14
IMAGE_SIZE = 56
TINY = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
GIANT = {"hidden_size": 1536, "num_attention_heads": 24, "num_hidden_layers": 2}


def create_reference(*, registers: bool, **fields):
    """Returns a Dinov2 of transformers, all of whose parameters are random."""
    fields |= {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**fields, num_register_tokens=4)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**fields))
    return randomize(model)


def torch_tokens(model, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(pixel_values=to_pixel_values(images)).last_hidden_state.numpy()


def random_images(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (2, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)


def hub_state(model, *, timm: bool = False) -> dict[str, "torch.Tensor"]:
    """Returns the weights as a state dict of torch.hub, or of timm."""
    theirs = model.state_dict()
    embeddings = {k.removeprefix("embeddings."): v for k, v in theirs.items()}
    cls, positions = embeddings["cls_token"], embeddings["position_embeddings"]
    state = {
        "patch_embed.proj.weight": embeddings["patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": embeddings["patch_embeddings.projection.bias"],
        "norm.weight": theirs["layernorm.weight"],
        "norm.bias": theirs["layernorm.bias"],
    }
    if "register_tokens" not in embeddings:
        state |= {"cls_token": cls, "pos_embed": positions}
    elif timm:
        state["reg_token"] = embeddings["register_tokens"]
        state["cls_token"] = cls + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    else:
        state["register_tokens"] = embeddings["register_tokens"]
        state |= {"cls_token": cls, "pos_embed": positions}
    if not timm:
        state["mask_token"] = embeddings["mask_token"]
    first, second = ("fc1", "fc2") if timm else ("w12", "w3")
    for i in range(model.config.num_hidden_layers):
        block = {
            key.removeprefix(f"encoder.layer.{i}."): value
            for key, value in theirs.items()
            if key.startswith(f"encoder.layer.{i}.")
        }
        for kind in ("weight", "bias"):
            for norm in ("norm1", "norm2"):
                state[f"blocks.{i}.{norm}.{kind}"] = block[f"{norm}.{kind}"]
            qkv = [block[f"attention.{n}_proj.{kind}"] for n in "qkv"]
            state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(qkv)
            state[f"blocks.{i}.attn.proj.{kind}"] = block[f"attention.o_proj.{kind}"]
            if model.config.use_swiglu_ffn:
                gate_up = [block[f"mlp.{n}_proj.{kind}"] for n in ("gate", "up")]
                state[f"blocks.{i}.mlp.{first}.{kind}"] = torch.cat(gate_up)
                down = block[f"mlp.down_proj.{kind}"]
                state[f"blocks.{i}.mlp.{second}.{kind}"] = down
            else:
                state[f"blocks.{i}.mlp.fc1.{kind}"] = block[f"mlp.fc1.{kind}"]
                state[f"blocks.{i}.mlp.fc2.{kind}"] = block[f"mlp.fc2.{kind}"]
        for n in (1, 2):
            state[f"blocks.{i}.ls{n}.gamma"] = block[f"layer_scale{n}.lambda1"]
    return state


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("shape", ["small", "giant"])
def test_tokens_of_hugging_face_folder_equal_torch(tmp_path, shape, registers):
    sizes = {"small": SMALL, "giant": {**GIANT, "use_swiglu_ffn": True}}[shape]
    reference = create_reference(registers=registers, **sizes)
    reference.save_pretrained(tmp_path)
    vit, params = eomt_jax.load_backbone(
        tmp_path, image_size=(IMAGE_SIZE, IMAGE_SIZE), patch_size=PATCH_SIZE
    )
    assert vit.mlp_type == ("swiglu" if shape == "giant" else "gelu")
    assert vit.num_register_tokens == (4 if registers else 0)
    images = random_images()
    got = jax.jit(vit.apply)({"params": params}, images)
    expected = torch_tokens(reference, images)
    assert expected.std() > 0.5
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("naming", ["hub", "timm", "in_memory"])
def test_other_namings_give_the_same_parameters(tmp_path, naming, registers, swiglu):
    reference = create_reference(registers=registers, **TINY, use_swiglu_ffn=swiglu)
    reference.save_pretrained(tmp_path)
    state = reference.state_dict()
    if naming != "in_memory":
        state = hub_state(reference, timm=naming == "timm")
    torch.save(state, tmp_path / "weights.pth")
    options = {"image_size": (32, 64), "num_heads": 3}
    vit, params = eomt_jax.load_backbone(tmp_path / "weights.pth", **options)
    expected_vit, expected = eomt_jax.load_backbone(tmp_path, **options)
    assert vit == expected_vit
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_hub_tokens_equal_torch(tmp_path):
    reference = create_reference(registers=True, **TINY, use_swiglu_ffn=True)
    torch.save(hub_state(reference), tmp_path / "dinov2.pth")
    vit, params = eomt_jax.load_backbone(
        tmp_path / "dinov2.pth", patch_size=PATCH_SIZE, num_heads=3
    )
    assert vit.image_size == (IMAGE_SIZE, IMAGE_SIZE)
    images = random_images()
    got = vit.apply({"params": params}, images)
    expected = torch_tokens(reference, images)
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_stored_precision_is_widened_before_anything_is_added(tmp_path, dtype):
    reference = create_reference(registers=False, **TINY).to(getattr(torch, dtype))
    reference.save_pretrained(tmp_path)
    torch.save(hub_state(reference), tmp_path / "weights.pth")
    for path in (tmp_path, tmp_path / "weights.pth"):
        _, params = eomt_jax.load_backbone(path, num_heads=3)
        assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
        embeddings = reference.embeddings
        expected = embeddings.cls_token[0].float() + (
            embeddings.position_embeddings[0, :1].float()
        )
        np.testing.assert_array_equal(params["class_token"], expected.detach().numpy())


def test_sharded_hugging_face_folder_is_read(tmp_path):
    reference = create_reference(registers=False, **TINY)
    reference.save_pretrained(tmp_path / "whole")
    reference.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    _, params = eomt_jax.load_backbone(tmp_path / "shards")
    _, expected = eomt_jax.load_backbone(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    next((tmp_path / "shards").glob("*00002*.safetensors")).unlink()
    with pytest.raises(ValueError, match="00002.*not in its folder"):
        eomt_jax.load_backbone(tmp_path / "shards")


def test_resampled_checkpoint_equals_torch(tmp_path):
    reference = create_reference(registers=True, **TINY)
    reference.save_pretrained(tmp_path)
    vit, params = eomt_jax.load_backbone(tmp_path, image_size=(48, 112))
    assert vit.patch_size == 16
    positions = reference.embeddings.position_embeddings[0, 1:].detach().double()
    grid = positions.T.reshape(1, -1, 4, 4)
    resize = torch.nn.functional.interpolate
    cubic = {"mode": "bicubic", "antialias": True}
    expected = resize(grid, size=(3, 7), **cubic)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(params["position_embedding"], expected, atol=1e-5)

    basis = torch.eye(14 * 14, dtype=torch.float64).reshape(14 * 14, 1, 14, 14)
    matrix = resize(basis, size=(16, 16), **cubic).reshape(14 * 14, 16 * 16)
    kernel = reference.embeddings.patch_embeddings.projection.weight.detach().double()
    expected = torch.linalg.pinv(matrix) @ kernel.reshape(-1, 14 * 14).T
    expected = expected.reshape(16, 16, -1, 3).permute(0, 1, 3, 2).numpy()
    np.testing.assert_allclose(params["patch_embedding"]["kernel"], expected, atol=1e-5)
