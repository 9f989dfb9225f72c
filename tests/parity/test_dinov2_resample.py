"""The resampling of a ViT equals PyTorch's interpolate in float64."""

import numpy as np
import pytest

from eomt_jax.weights import resample

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


def torch_resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an antialiased bicubic resize of [C, H, W] in float64."""
    return torch.nn.functional.interpolate(
        torch.from_numpy(x.astype(np.float64))[None],
        size=size,
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )[0].numpy()


@pytest.mark.parametrize("patch_size", [16, 8, 20])
def test_patch_kernel_equals_pseudo_inverse_of_torch_resize(patch_size):
    kernel = np.random.default_rng(0).normal(size=(14, 14, 3, 6)).astype(np.float32)
    basis = np.eye(14 * 14).reshape(14 * 14, 14, 14)
    matrix = torch_resize(basis, (patch_size, patch_size)).reshape(14 * 14, -1).T
    expected = np.linalg.pinv(matrix.T) @ kernel.reshape(14 * 14, -1).astype(np.float64)
    got = resample.resample_patch_kernel(kernel, patch_size)
    expected = expected.reshape(patch_size, patch_size, 3, 6)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("grid_size", [(40, 40), (20, 60), (16, 20), (37, 9), (80, 7)])
def test_position_embedding_equals_torch_resize(grid_size):
    embedding = np.random.default_rng(0).normal(size=(37, 37, 8)).astype(np.float32)
    expected = torch_resize(embedding.transpose(2, 0, 1), grid_size)
    got = resample.resample_position_embedding(embedding, grid_size)
    np.testing.assert_allclose(got, expected.transpose(1, 2, 0), atol=1e-5)
