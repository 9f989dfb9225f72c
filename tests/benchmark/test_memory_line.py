"""Lines go through the compiler's numbers for a few batches."""

import pytest

from eomt_jax.benchmark.memory_line import MemoryLine, passes_for

LINE = MemoryLine(fixed=5e9, per_image=2e9)


def test_line_goes_through_the_outermost_points():
    assert MemoryLine.through([(4, 13e9), (2, 9e9), (3, 11.1e9)]) == LINE
    with pytest.raises(ValueError, match="two batch sizes, not 2"):
        MemoryLine.through([(2, 9e9)])


@pytest.mark.parametrize(
    "available, batch", [(15e9, 5), (14.9e9, 4), (7e9, 1), (6.9e9, 0), (1e9, 0)]
)
def test_largest_batch_is_the_last_that_fits(available, batch):
    assert LINE.largest_batch(available) == batch
    assert LINE.at(batch) <= available or batch == 0


@pytest.mark.parametrize(
    "available, passes",
    [
        (37e9, 1),  # 5 + 16 · 2
        (36e9, 2),  # 5 + 8 · 2 and 1 of gradients, 0.8 of 8 images that wait
        (22e9, 4),
        (8.9e9, None),  # one image, its gradients' sum and 15 that wait: 9.5
        (9.5e9, 16),
    ],
)
def test_passes_are_as_few_as_fit(available, passes):
    found = passes_for(16, LINE, available, gradients=1e9, per_input=0.1e9)
    assert found == passes


def test_passes_divide_the_batch():
    # Eight images fit a pass, and 12 images in equal passes are 6 in each.
    assert passes_for(12, LINE, 22.5e9, gradients=1e9, per_input=0.0) == 2
    assert passes_for(7, LINE, 17e9, gradients=1e9, per_input=0.0) == 7
