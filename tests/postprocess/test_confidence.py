import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.postprocess import confidence, geometry
from eomt_jax.postprocess.panoptic import panoptic_segmentation


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("unnormalized", [0.5, 0.125, 1.0, 0.0]),
        ("normalized", [0.625, 0.5, 0.8, 0.0]),
    ],
)
def test_pixel_confidence_by_hand(kind, expected):
    scores = [[0.25, 0.5, 0.05], [0.125, 0.125, 0.0], [0.25, 1.2, 0.05], [0, 0, 0]]
    found = confidence.pixel_confidence(jnp.array(scores), kind)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_confidence_levels_are_parts_of_equal_length():
    values = np.array([[0, 0.9 / 65536, 1 / 65536, 0.5, 1 - 2**-24, 1]], np.float32)
    picture = confidence.confidence_picture(values)
    assert picture.dtype == np.uint16
    assert picture.tolist() == [[0, 0, 1, 32768, 65535, 65535]]
    np.testing.assert_array_equal(
        confidence.confidence_levels(jnp.array(values)), picture
    )


@pytest.mark.parametrize("kind", confidence.KINDS)
def test_panoptic_confidence_is_of_all_queries(kind):
    """No query is a segment, and each counts all the same."""
    rng = np.random.default_rng(0)
    masks = rng.normal(0, 2, (5, 6, 10)).astype(np.float32)
    classes = rng.normal(0, 1, (5, 4)).astype(np.float32)
    restore = geometry.RestoreMatrices(jnp.eye(6), jnp.eye(10), jnp.array([5, 8]))
    found = jax.jit(panoptic_segmentation, static_argnames="confidence")(
        masks, classes, restore, is_thing=np.array([True] * 3), confidence=kind
    )
    assert not found.valid.any()
    probs = np.exp(classes) / np.exp(classes).sum(-1, keepdims=True)
    scores = np.einsum("qyx,qk->yxk", 1 / (1 + np.exp(-masks)), probs[:, :-1])
    expected = scores.max(-1).clip(0, 1)
    if kind == "normalized":
        expected = scores.max(-1) / scores.sum(-1)
    expected[5:], expected[:, 8:] = 0, 0
    np.testing.assert_allclose(found.confidence, expected, atol=1e-6)


def test_unknown_kind_is_refused():
    with pytest.raises(
        ValueError, match="confidence is 'max'; it is unnormalized or n"
    ):
        confidence.check_kind("max")
