"""Shapes of annotation tools become polygons and run lengths."""

import numpy as np
import pytest
from pycocotools import mask as mask_codec

from eomt_jax.datasets import object_shapes


def draw(corners, size=(20, 30)):
    return mask_codec.decode(mask_codec.frPyObjects([corners.tolist()], *size))[..., 0]


def test_rectangle_covers_the_pixels_between_its_sides():
    mask = draw(object_shapes.rectangle(2.0, 3.0, 8.0, 5.0))
    assert mask.sum() == 12
    assert mask[3:5, 2:8].all()


def test_rectangle_turns_clockwise_about_its_middle():
    corners = object_shapes.rectangle(2.0, 3.0, 8.0, 5.0, degrees=90.0)
    expected = [6, 1, 6, 7, 4, 7, 4, 1]
    np.testing.assert_allclose(corners, expected, atol=1e-12)
    corners = object_shapes.rectangle(0.0, 0.0, 4.0, 0.0, degrees=30.0)
    np.testing.assert_allclose(corners[2:4], [2 + 3**0.5, 1], atol=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 90.0])
def test_ellipse_has_its_radii_and_area(degrees):
    corners = object_shapes.ellipse((15.0, 10.0), (9.0, 4.0), degrees=degrees).reshape(
        -1, 2
    )
    radii = [9, 4] if degrees == 0 else [4, 9]
    np.testing.assert_allclose(
        corners.min(0), [15 - radii[0], 10 - radii[1]], atol=1e-9
    )
    np.testing.assert_allclose(
        corners.max(0), [15 + radii[0], 10 + radii[1]], atol=1e-9
    )
    assert abs(draw(corners.ravel()).sum() - np.pi * 9 * 4) < 3


def test_pasted_mask_is_cut_off_at_the_border():
    mask = np.array([[1, 1, 1], [1, 0, 1]], bool)
    pasted = mask_codec.decode(object_shapes.paste(mask, left=-1, top=2, size=(4, 3)))
    assert pasted.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]]


def test_parts_are_joined_and_those_without_an_inside_counted():
    size = (4, 6)
    polygon = object_shapes.rectangle(0.0, 0.0, 2.0, 2.0)
    run_lengths = object_shapes.paste(np.ones((2, 2), bool), left=1, top=1, size=size)
    flat = np.array([0.0, 0, 5, 3])
    segmentation, num_flat = object_shapes.join([polygon, run_lengths, flat], size)
    assert (mask_codec.area(segmentation), num_flat) == (7, 1)
    segmentation, num_flat = object_shapes.join([polygon, polygon + 2], size)
    assert isinstance(segmentation, tuple)
    assert (len(segmentation), num_flat) == (2, 0)
    assert object_shapes.join([flat], size) == (None, 1)
    assert object_shapes.join([], size) == (None, 0)
