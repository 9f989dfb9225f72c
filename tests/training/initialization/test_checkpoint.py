"""A network starts from a whole checkpoint, of its own classes or others."""

import re

import jax
import numpy as np
import pytest

from eomt_jax.training.reporting.parameter_report import GroupReport
from eomt_jax.training.state import param_shapes
from eomt_jax.types import ClassInfo, DatasetInfo
from eomt_jax.weights.foreign import huggingface
from eomt_jax.weights.formats.files import write_safetensors
from eomt_jax.weights.native import model_folder
from eomt_jax.weights.resample import resample_position_embedding
from tests.training.initialization.conftest import NAMES, build, random_like, rows


def test_folder_of_transformers_is_a_checkpoint(tmp_path, rotary_eomt):
    model, params = rotary_eomt
    classes = tuple(ClassInfo(i, name, True, (0, 0, 0)) for i, name in enumerate(NAMES))
    info = DatasetInfo("pets", classes, (32, 32), 3, {"train": 1})
    huggingface.save(tmp_path / "theirs", model, params, dataset_info=info)
    result = build("rotary", checkpoint=tmp_path / "theirs", image_size=(48, 48))
    jax.tree.map(np.testing.assert_array_equal, result.loaded, params)
    assert all(row.loaded == row.total for row in result.report)
    assert result.notes[0] == f"checkpoint: {tmp_path / 'theirs'}"
    assert "class head: kept" in result.notes
    assert result.model.vit.image_size == (48, 48)


def test_difference_to_a_backbone_wants_it_beside(
    tmp_path, rotary_eomt, rotary_backbone
):
    model, params = rotary_eomt
    file = tmp_path / "delta.safetensors"
    encoder = "network.encoder.backbone."
    tensors = {
        "network.attn_mask_probs": np.zeros(1, np.float32),
        "network.encoder.pixel_std": np.zeros((1, 3, 1, 1), np.float32),
    }
    for name, tensor in huggingface.named_tensors(model, params).items():
        for theirs, released in (
            (r"^layers\.", f"{encoder}blocks."),
            (r"^embeddings\.", f"{encoder}patch_embed."),
            (r"^layernorm\.", f"{encoder}norm."),
            (r"^query\.", "network.q."),
            (r"^class_predictor\.", "network.class_head."),
            (r"^mask_head\.fc1\.", "network.mask_head.0."),
            (r"^mask_head\.fc2\.", "network.mask_head.2."),
            (r"^mask_head\.fc3\.", "network.mask_head.4."),
            (r"^upscale_block\.block\.(\d)\.layernorm2d", r"network.upscale.\1.norm"),
            (r"^upscale_block\.block\.", "network.upscale."),
        ):
            name = re.sub(theirs, released, name)
        tensors[name] = np.ascontiguousarray(tensor.value)
    write_safetensors(file, tensors, {})

    folder, base = rotary_backbone
    result = build("rotary", checkpoint=file, backbone=folder)
    # The differences equal the backbone, so the sum is twice the backbone.
    doubled = jax.tree.map(lambda leaf: leaf + leaf, base)
    jax.tree.map(np.testing.assert_array_equal, result.loaded["vit"], doubled)
    np.testing.assert_array_equal(result.loaded["queries"], params["queries"])
    assert "class_head" not in result.loaded
    assert result.notes[0] == f"checkpoint: {file}, a delta to {folder}"
    with pytest.raises(ValueError, match="delta.safetensors"):
        build("rotary", checkpoint=file)


def test_backbone_beside_a_whole_checkpoint_is_refused(checkpoint, backbone):
    with pytest.raises(ValueError, match="whole"):
        build(checkpoint=checkpoint[0], backbone=backbone[0])


@pytest.mark.parametrize(
    ("inference", "masked"), [("", True), ("masked", True), ("unmasked", False)]
)
def test_inference_is_masked_as_the_checkpoint_unless_asked(inference, masked):
    stored = build(inference="masked").model
    written = model_folder.ModelConfig.of(stored)
    again = build(resumed=written, inference=inference)
    assert again.model.masked_inference is masked


def test_checkpoint_of_the_same_sizes_and_classes_is_loaded_bit_for_bit(checkpoint):
    folder, params = checkpoint
    result = build(checkpoint=folder)
    jax.tree.map(np.testing.assert_array_equal, result.loaded, params)
    assert all(row.loaded == row.total for row in result.report)
    assert result.notes[1:] == ("class head: kept",)
    shapes = param_shapes(result.model)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)


def test_checkpoint_of_a_training_takes_its_newest_step_and_says_which(checkpoint):
    notes = build(checkpoint=checkpoint[0]).notes
    assert notes[0] == f"checkpoint: {checkpoint[0]}/checkpoints/0"
    assert build(checkpoint=checkpoint[0] / "checkpoints" / "0").notes == notes


@pytest.mark.parametrize(
    "names", [("cat", "sky", "dog"), ("cat", "dog"), ("cat", "dog", "sea")]
)
def test_other_classes_take_a_new_class_head(checkpoint, names):
    result = build(checkpoint=checkpoint[0], class_names=names)
    assert set(result.loaded) == {"vit", "queries", "mask_head", "upscale"}
    size = 17 * (len(names) + 1)
    assert rows(result)["class head"] == GroupReport("class head", new=size)
    assert result.model.num_classes == len(names)
    note = "class head: new; the checkpoint's classes are the 3 of pets"
    assert result.notes[1] == note


def test_class_head_is_kept_or_new_on_request(checkpoint):
    folder, params = checkpoint
    result = build(checkpoint=folder, class_head="new")
    assert "class_head" not in result.loaded
    # The classes are the same, with other names.
    names = ("Katze", "Hund", "Himmel")
    result = build(checkpoint=folder, class_head="keep", class_names=names)
    jax.tree.map(
        np.testing.assert_array_equal, result.loaded["class_head"], params["class_head"]
    )


def test_classes_of_the_same_name_keep_their_rows(checkpoint):
    folder, params = checkpoint  # cat, dog, sky
    names = ("sea", "Sky", "cat", "tree")
    result = build(checkpoint=folder, class_head="by_name", class_names=names)
    kernel, bias = (result.loaded["class_head"][k] for k in ("kernel", "bias"))
    old = params["class_head"]
    np.testing.assert_array_equal(kernel[:, [1, 2, 4]], old["kernel"][:, [2, 0, 3]])
    np.testing.assert_array_equal(bias[[1, 2, 4]], old["bias"][[2, 0, 3]])
    assert np.isnan(kernel[:, [0, 3]]).all() and np.isnan(bias[[0, 3]]).all()
    assert rows(result)["class head"] == GroupReport("class head", 3 * 17, new=2 * 17)
    assert result.notes[1:] == (
        "class head, kept: 2 of 4 classes: Sky, cat",
        "class head, new: 2 of 4 classes: sea, tree",
    )


def test_classes_by_name_need_a_name_in_common(tmp_path, checkpoint):
    options = {"class_head": "by_name", "class_names": ("sea", "tree")}
    with pytest.raises(ValueError, match=r"\(sea, tree\) has the name of one of"):
        build(checkpoint=checkpoint[0], **options)
    model = build().model
    model_folder.save(tmp_path / "eomt", model, random_like(param_shapes(model)))
    with pytest.raises(ValueError, match="doesn't say the names of its classes"):
        build(checkpoint=tmp_path / "eomt", **options)


def test_checkpoint_without_class_names_takes_a_new_class_head(tmp_path, checkpoint):
    model = build().model
    model_folder.save(tmp_path / "eomt", model, random_like(param_shapes(model)))
    result = build(checkpoint=tmp_path / "eomt")
    assert "class_head" not in result.loaded
    assert result.notes[1].endswith("classes are not known")


@pytest.mark.parametrize(
    ("num_queries", "num_new", "note"),
    [
        (3, 0, "queries: the first 3 of the checkpoint's 4"),
        (6, 2, "queries: the checkpoint's 4, and 2 new ones"),
    ],
)
def test_first_queries_are_taken_and_further_ones_new(
    checkpoint, num_queries, num_new, note
):
    folder, params = checkpoint
    result = build(checkpoint=folder, num_queries=num_queries)
    taken = params["queries"][:num_queries]
    np.testing.assert_array_equal(result.loaded["queries"], taken)
    assert rows(result)["queries"] == GroupReport(
        "queries", loaded=taken.size, new=num_new * 16
    )
    assert result.model.num_queries == num_queries
    assert result.notes[1] == note


def test_checkpoint_at_another_image_size_resamples_positions_alone(checkpoint):
    folder, params = checkpoint
    result = build(checkpoint=folder, image_size=(48, 64))
    positions = params["vit"]["position_embedding"]
    np.testing.assert_array_equal(
        result.loaded["vit"]["position_embedding"],
        resample_position_embedding(positions, (6, 8)),
    )
    report = rows(result)
    assert report["vit position embedding"].resampled == 6 * 8 * 16
    assert sum(row.resampled for row in result.report) == 6 * 8 * 16
    assert sum(row.new for row in result.report) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_head": "old"}, "'old': there are auto, keep, new, by_name"),
        ({"class_head": "keep"}, "without init.checkpoint"),
        (
            {"checkpoint": True, "class_head": "keep", "class_names": ("cat",)},
            "predicts 3 classes and the dataset has 1; set init.class_head = 'new'",
        ),
        (
            {"checkpoint": True, "variant": "wide"},
            "init.checkpoint = .*embed_dim 16 instead of 24, .*model.variant = 'micro'",
        ),
        (
            {"checkpoint": True, "patch_size": 16},
            "patches of 8 pixels, .* set model.patch_size = 8",
        ),
    ],
)
def test_contradictions_are_refused(checkpoint, changes, message):
    if "checkpoint" in changes:
        changes = {**changes, "checkpoint": checkpoint[0]}
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_backbone_is_no_checkpoint(backbone):
    with pytest.raises(ValueError, match="holds a backbone, not a whole network"):
        build(checkpoint=backbone[0])
