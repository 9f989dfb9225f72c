"""Whole EoMTs that `load` reads from disk equal transformers' networks."""

import re

import jax
import numpy as np
import pytest
import torch
import transformers

import eomt_jax
from eomt_jax.weights.load import open_network
from tests.parity.eomt_reference import to_pixel_values
from tests.parity.random_networks import randomize

pytestmark = pytest.mark.parity

# Widths are the published ones; there are fewer blocks, which saves time.
DINOV2_SHAPES = {
    "small": {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12},
    "base": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 3},
    "large": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 3},
    "giant": {
        "hidden_size": 1536,
        "num_attention_heads": 24,
        "num_hidden_layers": 2,
        "use_swiglu_ffn": True,
    },
}
DINOV3_SHAPES = {
    "small": {**DINOV2_SHAPES["small"], "intermediate_size": 1536},
    "large": {**DINOV2_SHAPES["large"], "intermediate_size": 4096},
}
TINY = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3}
NAMES = {0: "road", 1: "person", 2: "sky", 3: "cat", 4: "dog", 5: "bus", 6: "tree"}


def create_reference(*, dinov3: bool = False, image_size: int = 64, **fields):
    """Returns an EoMT of transformers that doesn't mask attention."""
    fields |= {"image_size": image_size, "num_queries": 9, "num_blocks": 2}
    fields["id2label"] = NAMES
    if dinov3:
        config = transformers.EomtDinov3Config(**fields, layer_norm_eps=1e-5)
        model = transformers.EomtDinov3ForUniversalSegmentation(config)
    else:
        config = transformers.EomtConfig(**fields)
        model = transformers.EomtForUniversalSegmentation(config)
    model.attn_mask_probs.zero_()
    randomize(model)
    # Mask logits are sums over the width; this keeps them as large as trained ones.
    model.mask_head.fc3.weight.data *= 4 / config.hidden_size**0.5
    return model


# transformers' names, and the release's.
RELEASE_HEADS = [
    (r"query\.", "network.q."),
    (r"class_predictor\.", "network.class_head."),
    (r"mask_head\.fc1\.", "network.mask_head.0."),
    (r"mask_head\.fc2\.", "network.mask_head.2."),
    (r"mask_head\.fc3\.", "network.mask_head.4."),
    (r"upscale_block\.block\.(\d)\.conv", r"network.upscale.\1.conv"),
    (r"upscale_block\.block\.(\d)\.layernorm2d", r"network.upscale.\1.norm"),
    (r"attn_mask_probs", "network.attn_mask_probs"),
    (r"criterion\.", "criterion."),
]
RELEASE_DINOV3 = [
    (r"embeddings\.", "network.encoder.backbone.patch_embed."),
    (r"layers\.", "network.encoder.backbone.blocks."),
    (r"layernorm\.", "network.encoder.backbone.norm."),
]
RELEASE_DINOV2 = [
    (r"embeddings\.patch_embeddings\.projection", r"patch_embed.proj"),
    (r"embeddings\.position_embeddings\.weight", "pos_embed"),
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"layernorm\.", "norm."),
    (r"layers\.(\d+)\.attention\.out_proj", r"blocks.\1.attn.proj"),
    (r"layers\.(\d+)\.attention\.qkv", r"blocks.\1.attn.qkv"),
    (r"layers\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"layers\.(\d+)\.", r"blocks.\1."),
]


def renamed(name: str, rules) -> str:
    for pattern, replacement in rules:
        if match := re.match(pattern, name):
            return match.expand(replacement) + name[match.end() :]
    raise AssertionError(name)


def release_state(reference) -> dict[str, torch.Tensor]:
    """Returns the weights with the names of the release."""
    state = dict(reference.state_dict())
    if reference.config.model_type == "eomt":
        name = "embeddings.position_embeddings.weight"
        state[name] = state[name][None]
        for name in [n for n in state if ".q_proj." in n]:
            parts = [state.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
            state[name.replace("q_proj", "qkv")] = torch.cat(parts)
        backbone = "network.encoder.backbone."
        rules = [(p, backbone + r) for p, r in RELEASE_DINOV2] + RELEASE_HEADS
    else:
        rules = RELEASE_DINOV3 + RELEASE_HEADS
    state = {renamed(name, rules): value for name, value in state.items()}
    state["network.encoder.pixel_mean"] = torch.full((1, 3, 1, 1), 0.45)
    state["network.encoder.pixel_std"] = torch.full((1, 3, 1, 1), 0.22)
    return state


def assert_same(got, wanted):
    assert got[0] == wanted[0]
    jax.tree.map(np.testing.assert_array_equal, got[1], wanted[1])


def assert_same_logits(reference, model, params):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, *model.vit.image_size, 3), np.uint8)
    got = jax.jit(model.apply)({"params": params}, images)
    with torch.no_grad():
        wanted = reference(pixel_values=to_pixel_values(images))
    for ours, theirs in [
        (got.mask_logits, wanted.masks_queries_logits),
        (got.class_logits, wanted.class_queries_logits),
    ]:
        assert theirs.std() > 0.5
        np.testing.assert_allclose(ours[-1], theirs.numpy(), atol=1e-4)


def at_another_size(reference, params, image_size: int):
    """Returns transformers' network for another image size, with our positions."""
    config = reference.config.to_dict() | {"image_size": image_size}
    other = type(reference)(type(reference.config)(**config))
    state = reference.state_dict()
    name = "embeddings.position_embeddings.weight"
    if name in state:
        positions = np.asarray(params["vit"]["position_embedding"])
        state[name] = torch.from_numpy(positions.reshape(-1, positions.shape[-1]))
    other.load_state_dict(state)
    return other.eval()


@pytest.mark.parametrize(
    ("dinov3", "shape"),
    [(False, s) for s in DINOV2_SHAPES] + [(True, s) for s in DINOV3_SHAPES],
)
def test_logits_equal_torch_at_two_image_sizes(tmp_path, dinov3, shape):
    fields = (DINOV3_SHAPES if dinov3 else DINOV2_SHAPES)[shape]
    reference = create_reference(dinov3=dinov3, **fields)
    reference.save_pretrained(tmp_path)
    assert_same_logits(reference, *eomt_jax.load(tmp_path))
    model, params = eomt_jax.load(tmp_path, image_size=(96, 96))
    assert_same_logits(at_another_size(reference, params, 96), model, params)


@pytest.mark.parametrize("dinov3", [False, True])
def test_architecture_classes_and_notes_of_a_folder(tmp_path, dinov3):
    reference = create_reference(dinov3=dinov3, **TINY)
    reference.attn_mask_probs[:] = torch.tensor([1.0, 0.5])
    reference.save_pretrained(tmp_path)
    loaded = open_network(tmp_path)
    model = loaded.model
    assert (model.num_queries, model.num_classes, model.num_query_blocks) == (9, 7, 2)
    assert model.vit.layer_norm_eps == (1e-5 if dinov3 else 1e-6)
    assert model.vit.qkv_bias == ("no_key" if dinov3 else "all")
    assert loaded.dataset_info is not None
    names = [c.name for c in loaded.dataset_info.classes]
    assert names == list(NAMES.values())
    mask_note, class_note = loaded.notes
    assert "attn_mask_probs are 1, 0.5" in mask_note
    assert "which of its classes are stuff" in class_note


def test_sharded_folder_and_one_file_are_the_same(tmp_path):
    reference = create_reference(**TINY)
    reference.save_pretrained(tmp_path / "whole")
    reference.save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert_same(eomt_jax.load(tmp_path / "shards"), eomt_jax.load(tmp_path / "whole"))


def test_giant_of_transformers_4_has_its_feed_forward_packed(tmp_path):
    reference = create_reference(**TINY, use_swiglu_ffn=True)
    reference.save_pretrained(tmp_path)
    state = reference.state_dict()
    for name in [n for n in state if ".gate_proj." in n]:
        parts = [state.pop(name), state.pop(name.replace("gate", "up"))]
        state[name.replace("gate_proj", "weights_in")] = torch.cat(parts)
    for name in [n for n in state if "mlp.down_proj." in n]:
        state[name.replace("down_proj", "weights_out")] = state.pop(name)
    torch.save(state, tmp_path / "old.bin")
    options = {"num_heads": 2, "layer_norm_eps": 1e-6}
    got = eomt_jax.load(tmp_path / "old.bin", **options)
    assert_same(got, eomt_jax.load(tmp_path))


@pytest.mark.parametrize("form", ["plain", "compiled", "lightning"])
@pytest.mark.parametrize("dinov3", [False, True])
def test_release_file_gives_the_same_parameters(tmp_path, dinov3, form):
    fields = {"intermediate_size": 512} if dinov3 else {}
    reference = create_reference(dinov3=dinov3, **TINY, **fields)
    reference.save_pretrained(tmp_path / "folder")
    state, file = release_state(reference), tmp_path / "pytorch_model.bin"
    if form == "plain":
        state.pop("criterion.empty_weight")
    if form == "compiled":
        state = {
            k.replace("network.", "network._orig_mod."): v for k, v in state.items()
        }
    if form == "lightning":
        state = {"state_dict": state, "epoch": 11, "hyper_parameters": {"lr": 1e-4}}
    torch.save(state, file)
    options = {"image_size": (64, 64)}
    got = eomt_jax.load(file, **options, layer_norm_eps=1e-5 if dinov3 else 1e-6)
    assert_same(got, eomt_jax.load(tmp_path / "folder", **options))


def test_difference_and_backbone_are_the_model(tmp_path):
    fields = {**TINY, "intermediate_size": 512}
    reference = create_reference(dinov3=True, **fields)
    config = transformers.DINOv3ViTConfig(
        **fields, num_register_tokens=4, image_size=224, rope_theta=50.0
    )
    base = randomize(transformers.DINOv3ViTModel(config), seed=1)
    base.save_pretrained(tmp_path / "base")
    state = release_state(reference)
    for name in ("mean", "std"):
        state[f"network.encoder.pixel_{name}"] *= 0
    file = tmp_path / "coco_panoptic_eomt_base_128_dinov3.bin"
    torch.save(state, file)
    model, params = eomt_jax.load(file, backbone=tmp_path / "base")
    assert model.vit.image_size == (128, 128)
    assert (model.vit.rope_theta, model.vit.layer_norm_eps) == (50.0, 1e-5)

    # torch adds differences and backbone, under transformers' names.
    sums, added = dict(reference.state_dict()), 0
    for name, value in base.state_dict().items():
        theirs = re.sub(r"^model\.layer\.", "layers.", name)
        theirs = re.sub(r"^norm\.", "layernorm.", theirs)
        if theirs in sums:
            sums[theirs], added = sums[theirs] + value, added + 1
    assert added == len(base.state_dict()) - 1  # the mask token has no use
    reference.load_state_dict(sums)
    reference.save_pretrained(tmp_path / "whole")
    _, wanted = eomt_jax.load(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_gated_dinov3_of_transformers_is_another_network(tmp_path):
    fields = {**TINY, "intermediate_size": 64, "use_gated_mlp": True}
    reference = create_reference(dinov3=True, **fields, hidden_act="silu")
    reference.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="SiLU, is that of the heads too"):
        eomt_jax.load(tmp_path)
