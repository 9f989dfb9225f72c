"""Loss parts, sampling and resizing equal those of transformers and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from eomt_jax.losses.criterion import Criterion
from eomt_jax.ops import points
from eomt_jax.ops.resize import bilinear_resize
from eomt_jax.types import Outputs
from tests.parity import eomt_reference, test_eomt

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("scale", [0.3, 5.0])
def test_loss_parts_equal_transformers(scale, monkeypatch):
    test_eomt.share_randomness(monkeypatch)
    rng = np.random.default_rng(5)
    mask_logits = scale * rng.normal(size=(2, 7, 16, 16)).astype(np.float32)
    class_logits = scale * rng.normal(size=(2, 7, 6)).astype(np.float32)
    targets, masks, classes = test_eomt.make_targets()
    reference = eomt_reference.reference_model()
    expected = reference.criterion(
        masks_queries_logits=torch.from_numpy(mask_logits),
        class_queries_logits=torch.from_numpy(class_logits),
        mask_labels=masks,
        class_labels=classes,
    )
    outputs = Outputs((jnp.asarray(mask_logits),), (jnp.asarray(class_logits),))
    criterion = Criterion(num_points=test_eomt.NUM_POINTS)
    terms = criterion(outputs, targets, rng=jax.random.key(0))
    for found, name in [
        (terms.mask, "loss_mask"),
        (terms.dice, "loss_dice"),
        (terms.classification, "loss_cross_entropy"),
    ]:
        np.testing.assert_allclose(found[0], expected[name].item(), rtol=1e-5)


def test_sampling_equals_grid_sample_outside_included():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 5, 9)).astype(np.float32)
    at = rng.uniform(-0.2, 1.2, size=(3, 40, 2)).astype(np.float32)
    grid = torch.from_numpy(2 * at[:, None, :, ::-1].copy() - 1)
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(maps[:, None]), grid, align_corners=False
    )
    found = points.sample_each(jnp.asarray(maps), jnp.asarray(at))
    np.testing.assert_allclose(found, expected[:, 0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (7, 3), (32, 40), (16, 20)])
def test_resizing_equals_interpolate(size):
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 20)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x), size=size, mode="bilinear", align_corners=False
    )
    found = bilinear_resize(jnp.asarray(x), size)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
