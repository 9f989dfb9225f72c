import functools

import numpy as np

from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import (
    INFO,
    SIZE,
    BrightestChannel,
    channel_params,
)


class Masked(BrightestChannel):
    """A BrightestChannel that is masked in inference too."""

    masked_inference: bool = True


@functools.cache
def segmenter():
    return Segmenter(BrightestChannel(), channel_params(), INFO)


def red_and_green():
    image = np.zeros((40, 56, 3), np.uint8)
    image[:, :24, 0] = image[16:, 32:, 1] = 255
    return image


def test_explain_masks_and_classes_of_each_prediction():
    found = segmenter().explain(red_and_green())
    assert found.layers == ("layer 1",)
    # The class of query 1 has a larger logit.
    assert [segment.class_name for segment in found.segments] == ["class 3", "class 0"]
    np.testing.assert_array_equal(found.queries, [1, 0])
    # Masks are at the photograph's own size, without the padding of the input.
    last = found.result.masks[found.chosen]
    np.testing.assert_array_equal(found.masks[1] > 0.5, last)
    np.testing.assert_allclose(found.masks[0], 1 - found.masks[1], atol=1e-6)
    assert found.attention.shape == (1, *found.masks.shape[1:])
    attention = found.attention[0, :, 30, [40, 10]]
    np.testing.assert_allclose(attention, 0.255 * np.eye(2), rtol=0.01)
    assert found.class_names == (("class 2", "class 2"), ("class 3", "class 0"))
    np.testing.assert_allclose(found.scores[0], np.e / (np.e + 4), rtol=1e-6)


def test_explain_windows_of_semantic_segmentation():
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, :12, 0] = image[:, 12:, 1] = 255
    found = segmenter().explain(image, task="semantic")
    assert [segment.class_name for segment in found.segments] == ["class 3", "class 0"]
    np.testing.assert_array_equal(found.queries, [1, 0])
    np.testing.assert_array_equal(found.masks[1, 0, :, 14:] > 0.99, True)
    np.testing.assert_array_equal(found.masks[1, 1, :, :10] > 0.99, True)
    # The last window shows nothing of class 0, whatever its queries predict.
    assert (found.masks[:, :, :, 40:].max((2, 3)) > 0.01).tolist() == [
        [False, False],
        [True, False],
    ]
    assert found.class_names == (("class 2",) * 2, ("class 3", "class 0"))


def test_all_predictions_of_a_network_that_is_masked_in_inference():
    network = Segmenter(Masked(), channel_params(), INFO).network
    predictions = network.all_predictions(np.zeros((SIZE, SIZE, 3), np.uint8))
    (_, first), (_, last) = predictions.logits
    np.testing.assert_array_equal(first[0], [0, 0, 2, 0, 0])
    np.testing.assert_array_equal(last[0], [5, 0, 0, 0, 0])


def test_explain_draws_a_row_for_each_segment():
    two = segmenter().explain(red_and_green()).draw()
    none = segmenter().explain(red_and_green(), threshold=1.0)
    assert none.segments == none.class_names[0] == ()
    assert two.height > none.draw().height + 2 * 171
