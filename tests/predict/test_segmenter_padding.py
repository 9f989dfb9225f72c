"""A Segmenter computes the part that shows the photograph, and the queries it keeps."""

import numpy as np
import pytest

from eomt_jax.models.mask_product import MaskFactors
from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import (
    INFO,
    SIZE,
    TRACES,
    BrightestChannel,
    channel_params,
)
from tests.predict.test_segmenter import assert_same, photograph, random_eomt


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_segmenter_computes_the_part_that_shows_the_photograph(task, monkeypatch):
    fitted = Segmenter(*random_eomt(), INFO, skip_padding=True)
    seen = []
    logits = fitted.network.logits

    def spy(images, **options):
        seen.extend(images)
        return logits(images, **options)

    monkeypatch.setattr(fitted.network, "logits", spy)
    # 40 × 100 pixels become 13 × 32, in one of two rows of patches; 3 of its 16 rows of
    # pixels are black.
    image = np.full((40, 100, 3), 200, np.uint8)
    fitted(image, task=task)
    fitted(image.swapaxes(0, 1), task=task)
    fitted(image, task="semantic")
    assert [x.shape[:2] for x in seen] == [(16, 32), (32, 16), *[(32, 32)] * 3]
    assert (seen[0][:13] == 200).all() and not seen[0][13:].any()


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_segmenter_square_photograph_is_the_same_without_its_padding(task):
    model, params = random_eomt()
    one, other = (
        Segmenter(model, params, INFO, skip_padding=skip)(
            photograph((50, 50)), task=task, threshold=0.0
        )
        for skip in (True, False)
    )
    for a, b in zip(one.segments, other.segments, strict=True):
        assert (a.score, a.area, a.class_name) == (b.score, b.area, b.class_name)
    np.testing.assert_array_equal(one.id_map, other.id_map)
    np.testing.assert_array_equal(one.masks, other.masks)


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_segmenter_masks_of_kept_queries_give_the_segments_of_all(task, monkeypatch):
    image = photograph((40, 100))
    of_kept, of_all = (
        Segmenter(*random_eomt(), INFO, skip_padding=True) for _ in range(2)
    )
    logits, forms = of_all.network.logits, []

    def all_masks(images, *, factored):
        rows = logits(images)
        forms.append((factored, rows[0][0].shape))
        return rows

    monkeypatch.setattr(of_all.network, "logits", all_masks)
    ((kept_masks, _),) = of_kept.network.logits([image[:16, :32]], factored=True)
    assert isinstance(kept_masks, MaskFactors)
    found, expected = (
        one(image, task=task, threshold=0.1) for one in (of_kept, of_all)
    )
    assert forms == [(True, (6, 4, 8))]
    assert_same(found.segmentation, expected.segmentation)
    assert found.segments


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_segmenter_photographs_of_one_input_share_programs(task):
    fresh = Segmenter(BrightestChannel(), channel_params(), INFO, skip_padding=True)
    fresh(photograph((24, 40)), task=task)
    before, num_traces = fresh.network.compile_seconds, len(TRACES)
    # All photographs become 18 to 20 rows of 32 pixels.
    for size in [(20, 32), (180, 320), (23, 40)]:
        fresh(photograph(size), task=task)
    assert (fresh.network.compile_seconds, len(TRACES)) == (before, num_traces)
    fresh(photograph((40, 24)), task=task)
    assert len(TRACES) == num_traces + 1
    assert TRACES[-1] == (1, SIZE, 20, 3)
