"""Predictions and gradients of the transformer decoder equal those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from eomt_jax.models.mask2former.transformer_decoder import TransformerDecoder
from eomt_jax.ops.resize import bilinear_resize
from tests.parity.mask2former_reference import Decoder, decoder_tree

pytestmark = pytest.mark.parity

SQUARE, WIDE = ((2, 2), (4, 4), (8, 8)), ((2, 3), (4, 6), (8, 12))
# With so many queries XLA compiles ten times as fast as with few: it repeats a chain
# of norms in everything that reads it if they are below 4096 numbers.
BATCH, DIM, QUERIES = 2, 32, 64


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def to_torch(maps: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(maps.transpose(0, 3, 1, 2).astype(np.float64))
    return tensor.requires_grad_()


def assert_close(path, found, expected):
    name = jax.tree_util.keystr(path)
    # The softmax doesn't depend on a bias of the keys, whose gradient is rounding alone.
    scale = 10.0 if "['key']['bias']" in name else np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-4 * scale, err_msg=name)


# With these seeds some masks are empty and none is decided by rounding.
@pytest.mark.parametrize(
    ("sizes", "width", "seed"), [(WIDE, DIM, 38), (SQUARE, 24, 36)]
)
def test_masked_predictions_and_gradients_equal_transformers(sizes, width, seed):
    """The levels of another width are projected."""
    reference = Decoder(width, num_queries=QUERIES).double()
    levels = [normal(i, BATCH, *size, width) for i, size in enumerate(sizes)]
    height, width = 2 * sizes[-1][0], 2 * sizes[-1][1]
    mask_features = normal(seed, BATCH, height, width, DIM)
    weights = (
        normal(7, 10, BATCH, QUERIES, height, width),
        normal(8, 10, BATCH, QUERIES, 6),
    )

    inputs = [*map(to_torch, levels), to_torch(mask_features)]
    expected = [torch.stack(tuple(x)) for x in reference(inputs[:3], inputs[3])]
    weighted = sum((torch.from_numpy(w) * x).sum() for w, x in zip(weights, expected))
    weighted.backward()
    of_params = decoder_tree({n: p.grad for n, p in reference.named_parameters()})

    def run(params, levels, mask_features):
        outputs = TransformerDecoder(
            num_classes=5, num_queries=QUERIES, dim=DIM, num_heads=4, mlp_dim=48
        ).apply(
            {"params": params},
            levels,
            mask_features,
            masked=jnp.ones((9, BATCH, QUERIES), bool),
        )
        found = jnp.stack(outputs.mask_logits), jnp.stack(outputs.class_logits)
        return sum((w * x).sum() for w, x in zip(weights, found)), found

    params = decoder_tree(reference.float().state_dict())
    gradients, found = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(
        params, levels, mask_features
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.detach(), atol=1e-4, rtol=1e-5)
    jax.tree.map_with_path(assert_close, gradients[0], of_params)
    of_maps = [np.array(x.grad.permute(0, 2, 3, 1)) for x in inputs]
    jax.tree.map_with_path(assert_close, [*gradients[1], gradients[2]], of_maps)

    check_decisions(found[0], sizes)


def check_decisions(mask_logits: jax.Array, sizes) -> None:
    """Checks that no mask is decided by rounding, and that both rules are met."""
    blocked = []
    for i, logits in enumerate(mask_logits[:9]):
        logits = np.asarray(bilinear_resize(logits, sizes[i % 3]))
        assert np.abs(logits).min() > 1e-4
        blocked.append((logits < 0).reshape(BATCH * QUERIES, -1))
    assert any(mask.all(-1).any() for mask in blocked)
    assert any((mask.any(-1) & ~mask.all(-1)).any() for mask in blocked)
