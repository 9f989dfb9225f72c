"""transformers' Mask2Former from its folder: weights, predictions and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from eomt_jax.losses.criterion import Criterion
from eomt_jax.models.mask2former.pixel_decoder import PixelDecoder
from eomt_jax.models.mask2former.transformer_decoder import TransformerDecoder
from eomt_jax.weights.foreign.mask2former import read_decoders, state_dict
from eomt_jax.weights.formats.files import open_checkpoint
from tests.parity import mask2former_reference, test_eomt
from tests.parity.random_networks import randomize

pytestmark = pytest.mark.parity

WIDTHS = (8, 16, 32, 64)
NUM_LAYERS = 3


@pytest.fixture(scope="module")
def reference():
    """Returns a whole Mask2Former of random values, around the smallest Swin."""
    config = Mask2FormerConfig(
        **mask2former_reference.SIZES,
        encoder_layers=1,
        encoder_feedforward_dim=40,
        decoder_layers=NUM_LAYERS + 1,
        dropout=0.0,
        use_auxiliary_loss=True,
        train_num_points=test_eomt.NUM_POINTS,
        backbone_config={
            "model_type": "swin",
            "embed_dim": WIDTHS[0],
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 1, 1],
            "window_size": 2,
            "image_size": 64,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
    )
    return randomize(Mask2FormerForUniversalSegmentation(config))


@pytest.fixture(scope="module")
def stored(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mask2former")
    reference.save_pretrained(folder)
    with open_checkpoint(folder) as checkpoint:
        return read_decoders(checkpoint)


@pytest.fixture(scope="module")
def predictions(reference, stored):
    """Returns all logits of transformers and ours from the same four maps."""
    rng = np.random.default_rng(0)
    maps = [
        rng.normal(size=(2, scale * 2, scale * 3, width)).astype(np.float32)
        for scale, width in zip((8, 4, 2, 1), WIDTHS)
    ]
    return predict_theirs(reference, maps), predict_ours(stored, maps)


def predict_theirs(reference, maps):
    """Returns all mask and class logits, without the backbone."""
    with torch.no_grad():
        maps = [torch.from_numpy(m.transpose(0, 3, 1, 2).copy()) for m in maps]
        decoder = reference.model.pixel_level_module.decoder
        pixels = decoder(maps, output_hidden_states=False, return_dict=True)
        out = reference.model.transformer_module(
            list(pixels.multi_scale_features), pixels.mask_features
        )
        classes = [
            reference.class_predictor(hidden.transpose(0, 1))
            for hidden in out.intermediate_hidden_states
        ]
    return out.masks_queries_logits, classes


def predict_ours(stored, maps):
    params = stored.params
    pixel_decoder = PixelDecoder(
        dim=32, num_heads=stored.num_heads, mlp_dim=40, num_layers=1
    )
    decoder = TransformerDecoder(
        stored.num_classes,
        stored.num_queries,
        num_layers=NUM_LAYERS,
        dim=32,
        num_heads=stored.num_heads,
        mlp_dim=48,
    )
    levels, features = pixel_decoder.apply(
        {"params": params["pixel_decoder"]}, tuple(map(jnp.asarray, maps))
    )
    return decoder.apply(
        {"params": params["decoder"]},
        levels,
        features,
        masked=jnp.ones((NUM_LAYERS, 2, stored.num_queries), bool),
    )


def test_every_prediction_from_the_same_maps_equals_transformers(predictions):
    (masks, classes), found = predictions
    assert len(found.mask_logits) == len(masks) == NUM_LAYERS + 1
    for ours, theirs in zip(
        (*found.mask_logits, *found.class_logits), (*masks, *classes), strict=True
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4, rtol=1e-5)


def test_losses_of_all_predictions_equal_transformers(
    reference, predictions, monkeypatch
):
    test_eomt.share_randomness(monkeypatch)
    targets, target_masks, target_classes = test_eomt.make_targets()
    (masks, classes), outputs = predictions
    parts = reference.get_loss_dict(
        masks_queries_logits=masks[-1],
        class_queries_logits=classes[-1],
        mask_labels=target_masks,
        class_labels=target_classes,
        auxiliary_predictions=reference.get_auxiliary_logits(classes, masks),
    )
    criterion = Criterion(num_points=test_eomt.NUM_POINTS)
    found = criterion(outputs, targets, rng=jax.random.key(0)).total
    expected = reference.get_loss(parts).item()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tensors_written_back_are_those_that_were_read(reference, stored):
    written = state_dict(stored.params)
    expected = {
        name: value.numpy()
        for name, value in reference.state_dict().items()
        if not name.startswith("model.pixel_level_module.encoder.")
        and not name.startswith("criterion.")
    }
    assert written.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(written[name], value)
