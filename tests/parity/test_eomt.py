"""Network, total loss and gradients equal those of transformers' EoMT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from eomt_jax.losses import mask_losses
from eomt_jax.losses.criterion import Criterion
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.types import Targets
from tests.parity import eomt_reference

pytestmark = pytest.mark.parity

GRID = (4, 4)
NUM_POINTS = 64
POINTS = np.random.default_rng(7).uniform(size=(4 * NUM_POINTS, 2)).astype(np.float32)
DRAW = np.random.default_rng(8).uniform(size=(2, 7)).astype(np.float32)


def our_model() -> EoMT:
    vit = ViT(
        embed_dim=32,
        depth=4,
        num_heads=2,
        mlp_dim=128,
        patch_size=16,
        image_size=(64, 64),
    )
    return EoMT(vit=vit, num_classes=5, num_queries=7, num_query_blocks=2)


def make_images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)


def make_targets() -> tuple[Targets, list[torch.Tensor], list[torch.Tensor]]:
    """Returns 3 and 2 targets of two images, padded to 6, and as lists of masks."""
    id_map = np.zeros((2, 64, 64), np.uint8)
    id_map[0, :20] = 1
    id_map[0, 30:50, 10:40] = 2
    id_map[0, 25:60, 45:] = 3
    id_map[1, :, :30] = 1
    id_map[1, 12:50, 34:60] = 2
    labels = np.zeros((2, 6), np.int32)
    labels[0, :3] = [4, 0, 2]
    labels[1, :2] = [1, 1]
    counts = np.array([3, 2])
    targets = Targets(
        id_map=jnp.asarray(id_map),
        labels=jnp.asarray(labels),
        valid=jnp.asarray(np.arange(6) < counts[:, None]),
        is_crowd=jnp.zeros((2, 6), bool),
    )
    masks = [
        torch.from_numpy(
            np.stack([id_map[b] == t + 1 for t in range(counts[b])]).astype(np.float32)
        )
        for b in range(2)
    ]
    classes = [torch.from_numpy(labels[b, : counts[b]]).long() for b in range(2)]
    return targets, masks, classes


def share_randomness(monkeypatch):
    """Makes both sides use the same points and the same draw of masked queries."""

    def torch_rand(*shape, **_):
        if len(shape) == 2:
            return torch.from_numpy(DRAW)
        num = shape[1]
        # transformers draws candidates and fresh points one after the other, as (x, y).
        start = 3 * NUM_POINTS if num == NUM_POINTS // 4 else 0
        points = POINTS[start : start + num, ::-1].copy()
        return torch.from_numpy(points).expand(shape[0], num, 2).clone()

    monkeypatch.setattr(torch, "rand", torch_rand)
    monkeypatch.setattr(
        mask_losses, "uniform_points", lambda rng, n: jnp.asarray(POINTS[:n])
    )
    monkeypatch.setattr(
        EoMT,
        "draw_for_masking",
        lambda self, batch, rows: jnp.asarray(DRAW).reshape(batch, -1),
    )


def all_predictions(reference, pixels):
    """Returns the reference's mask and class logits before and after each block."""
    found = []
    predict = reference.predict

    def record(tokens):
        found.append(predict(tokens))
        return found[-1]

    reference.predict = record
    reference(pixels)
    return found


@pytest.mark.parametrize("mask_probs", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.8)])
def test_every_prediction_equals_transformers(mask_probs, monkeypatch):
    share_randomness(monkeypatch)
    reference = eomt_reference.reference_model()
    reference.attn_mask_probs[:] = torch.tensor(mask_probs)
    images = make_images()
    with torch.no_grad():
        expected = all_predictions(reference, eomt_reference.to_pixel_values(images))

    params = eomt_reference.to_tree(dict(reference.state_dict()), 2, GRID)
    outputs = our_model().apply(
        {"params": params},
        images,
        mask_probs=jnp.array(mask_probs),
        rngs={"mask": jax.random.key(0)},
    )
    assert len(outputs.mask_logits) == len(expected) == 3
    for masks, classes, (masks_ref, classes_ref) in zip(
        outputs.mask_logits, outputs.class_logits, expected
    ):
        np.testing.assert_allclose(masks, masks_ref.numpy(), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(classes, classes_ref.numpy(), atol=1e-4, rtol=1e-4)


def test_masking_changes_the_predictions(monkeypatch):
    """The three cases above would not detect a network that ignores its masks."""
    share_randomness(monkeypatch)
    reference = eomt_reference.reference_model()
    params = eomt_reference.to_tree(dict(reference.state_dict()), 2, GRID)

    def run(prob):
        outputs = our_model().apply(
            {"params": params},
            make_images(),
            mask_probs=jnp.full(2, prob),
            rngs={"mask": jax.random.key(0)},
        )
        return outputs.mask_logits[-1]

    assert np.abs(run(0.0) - run(1.0)).max() > 0.01  # 100 × the tolerance
    assert np.abs(run(0.5) - run(1.0)).max() > 0.01


def test_inference_predicts_once_and_equals_all_open(monkeypatch):
    reference = eomt_reference.reference_model()
    params = eomt_reference.to_tree(dict(reference.state_dict()), 2, GRID)
    plain = our_model().apply({"params": params}, make_images())
    masked = our_model().apply(
        {"params": params},
        make_images(),
        mask_probs=jnp.zeros(2),
        rngs={"mask": jax.random.key(0)},
    )
    assert len(plain.mask_logits) == len(plain.class_logits) == 1
    np.testing.assert_allclose(
        plain.mask_logits[0], masked.mask_logits[-1], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("mask_probs", [(1.0, 1.0), (0.3, 0.8)])
def test_total_loss_and_gradients_equal_transformers(mask_probs, monkeypatch):
    share_randomness(monkeypatch)
    reference = eomt_reference.reference_model()
    reference.attn_mask_probs[:] = torch.tensor(mask_probs)
    images = make_images()
    targets, masks, classes = make_targets()
    loss = reference(
        eomt_reference.to_pixel_values(images), mask_labels=masks, class_labels=classes
    ).loss
    loss.backward()
    gradients = {n: p.grad for n, p in reference.named_parameters()}
    expected = eomt_reference.to_tree(gradients, 2, GRID)
    params = eomt_reference.to_tree(dict(reference.state_dict()), 2, GRID)

    @jax.jit
    @jax.value_and_grad
    def total_loss(params):
        outputs = our_model().apply(
            {"params": params},
            images,
            mask_probs=jnp.array(mask_probs),
            rngs={"mask": jax.random.key(0)},
        )
        criterion = Criterion(num_points=NUM_POINTS)
        return criterion(outputs, targets, rng=jax.random.key(1)).total

    total, found = total_loss(params)
    np.testing.assert_allclose(total, loss.item(), rtol=1e-5)
    jax.tree.map_with_path(assert_gradients_close, found, expected)


def assert_gradients_close(path, found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        found, expected, atol=1e-4 * scale + 1e-6, err_msg=jax.tree_util.keystr(path)
    )
