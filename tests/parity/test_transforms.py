"""Photographs and segment maps are resized as by PyTorch."""

import numpy as np
import pytest
from PIL import Image

from eomt_jax.pipeline import transforms

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torch.set_num_threads(1)


@pytest.mark.parametrize("size", [(12, 17), (47, 61), (60, 80), (94, 130)])
def test_resized_photograph_is_within_rounding_of_torch_with_antialiasing(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (47, 61, 3), dtype=np.uint8)
    geometry = transforms.Geometry(
        flip=False, resized=size, offset=(0, 0), crop_size=max(size)
    )
    ours = transforms.crop_image(Image.fromarray(image), geometry)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(),
        size=size,
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    theirs = theirs[0].permute(1, 2, 0).numpy()
    difference = np.abs(ours[: size[0], : size[1]] - theirs)
    # Our resizing rounds to 8 bits after each of its two passes.
    assert difference.max() <= 1.01 and difference.mean() < 0.4


@pytest.mark.parametrize("size", [(12, 17), (47, 61), (64, 128), (94, 122)])
def test_resized_segment_map_equals_torch_nearest(size):
    id_map = np.arange(47 * 61).reshape(47, 61).astype(np.uint16)
    geometry = transforms.Geometry(
        flip=False, resized=size, offset=(0, 0), crop_size=max(size)
    )
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(id_map.astype(np.float64))[None, None],
        size=size,
        mode="nearest",
    )
    ours = transforms.crop_map(id_map, geometry)
    np.testing.assert_array_equal(ours, theirs[0, 0].numpy())
