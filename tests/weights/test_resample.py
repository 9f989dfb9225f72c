import numpy as np
import pytest

from eomt_jax.weights import resample


def test_bicubic_matrix_is_identity_at_equal_sizes():
    np.testing.assert_array_equal(resample.bicubic_matrix(7, 7), np.eye(7))


def test_bicubic_matrix_doubling_has_known_weights():
    # The values are Keys' kernel with a = -0.5 at distances 1.75, 0.75, 0.25 and 1.25.
    row = resample.bicubic_matrix(8, 16)[8]
    expected = [-0.0234375, 0.2265625, 0.8671875, -0.0703125]
    np.testing.assert_allclose(row[2:6], expected, atol=1e-15)
    np.testing.assert_array_equal(np.delete(row, range(2, 6)), 0)


@pytest.mark.parametrize("sizes", [(14, 16), (37, 8), (5, 40)])
def test_bicubic_matrix_keeps_constants(sizes):
    np.testing.assert_allclose(resample.bicubic_matrix(*sizes).sum(axis=1), 1)


def test_patch_kernel_embeds_enlarged_patches_alike():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(14, 14, 3, 5))
    patch = rng.normal(size=(14, 14, 3))
    matrix = resample.bicubic_matrix(14, 16)
    enlarged = np.einsum("yp,xq,pqc->yxc", matrix, matrix, patch)
    resampled = resample.resample_patch_kernel(kernel, 16)
    np.testing.assert_allclose(
        np.einsum("yxc,yxcd->d", enlarged, resampled),
        np.einsum("yxc,yxcd->d", patch, kernel),
    )


def test_resample_vit_at_own_size_returns_the_same_arrays():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(14, 14, 3, 4)).astype(np.float32)
    embedding = rng.normal(size=(5, 5, 4)).astype(np.float32)
    params = {
        "patch_embedding": {"kernel": kernel, "bias": np.zeros(4, np.float32)},
        "position_embedding": embedding,
    }
    out = resample.resample_vit(params, grid_size=(5, 5), patch_size=14)
    assert out["patch_embedding"]["kernel"] is kernel
    assert out["position_embedding"] is embedding


def test_resample_vit_keeps_dtype_and_leaves_its_input_alone():
    params = {
        "patch_embedding": {"kernel": np.ones((14, 14, 3, 4), np.float32)},
        "position_embedding": np.ones((5, 5, 4), np.float32),
    }
    out = resample.resample_vit(params, grid_size=(3, 8), patch_size=16)
    assert out["patch_embedding"]["kernel"].shape == (16, 16, 3, 4)
    assert out["patch_embedding"]["kernel"].dtype == np.float32
    assert out["position_embedding"].shape == (3, 8, 4)
    assert out["position_embedding"].dtype == np.float32
    np.testing.assert_allclose(out["position_embedding"], 1, rtol=1e-6)
    assert params["position_embedding"].shape == (5, 5, 4)
