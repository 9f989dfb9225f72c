import jax
import numpy as np
import pytest

from eomt_jax.training import schedules

COCO_STEPS = 88_692


@pytest.mark.parametrize(
    ("total_steps", "starts", "ends"),
    [
        (88_692, (14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910)),
        (177_384, (29564, 59128, 88692, 118256), (59128, 88692, 118256, 147820)),
        (39_120, (6520, 13040, 19560, 26080), (13040, 19560, 26080, 32600)),
        (19_902, (3317, 6634, 9951, 13268), (6634, 9951, 13268, 16585)),
    ],
)
def test_annealing_steps_equal_published_lists(total_steps, starts, ends):
    assert schedules.annealing_steps(total_steps, 4) == (starts, ends)


def test_annealing_steps_of_five_blocks_round_half_up():
    starts, ends = schedules.annealing_steps(COCO_STEPS, 5)
    assert starts == (14782, 25869, 36955, 48042, 59128)
    assert ends == (29564, 40651, 51737, 62824, 73910)


def test_first_block_end_replaces_the_first_block_alone():
    starts, ends = schedules.annealing_steps(19_560, 4, first_block_end=3000)
    assert starts == (0, 6520, 9780, 13040)
    assert ends == (3000, 9780, 13040, 16300)


@pytest.mark.parametrize("first_block_end", [-1, 101])
def test_first_block_end_outside_the_run_raises(first_block_end):
    with pytest.raises(ValueError, match=f"first_block_end = {first_block_end} "):
        schedules.annealing_steps(100, 4, first_block_end=first_block_end)


def test_annealing_steps_of_one_block_start_at_a_sixth():
    assert schedules.annealing_steps(60, 1) == ((10,), (20,))


def test_annealing_steps_without_steps_raises():
    with pytest.raises(ValueError, match="total_steps ≥ 1"):
        schedules.annealing_steps(0, 4)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, [1, 1, 1, 1]),
        (14_782, [1, 1, 1, 1]),
        (22_173, [0.5**0.9, 1, 1, 1]),
        (29_563, [(1 / 14782) ** 0.9, 1, 1, 1]),
        (29_564, [0, 1, 1, 1]),
        (40_650.5, [0, 0.25**0.9, 1, 1]),
        (51_737, [0, 0, 0.5**0.9, 1]),
        (73_909, [0, 0, 0, (1 / 14782) ** 0.9]),
        (73_910, [0, 0, 0, 0]),
        (88_692, [0, 0, 0, 0]),
    ],
)
def test_mask_probs_of_the_coco_recipe(step, expected):
    starts, ends = schedules.annealing_steps(COCO_STEPS, 4)
    probs = jax.jit(
        lambda t: schedules.mask_probs(t, starts=starts, ends=ends, power=0.9)
    )(step)
    np.testing.assert_allclose(probs, expected, rtol=1e-5)
    # Outside the transition it is exactly 0 or 1: no rounding error masks a query.
    for prob, want in zip(probs, expected):
        assert want not in (0, 1) or prob == want


def test_mask_probs_without_transition_drop_at_once():
    probs = [
        float(schedules.mask_probs(t, starts=[3], ends=[3], power=0.9)[0])
        for t in range(5)
    ]
    assert probs == [1, 1, 1, 0, 0]


def test_mask_probs_with_an_end_before_its_start_raises():
    with pytest.raises(ValueError, match="none before it"):
        schedules.mask_probs(0, starts=[3], ends=[2], power=0.9)


@pytest.mark.parametrize(
    ("step", "head", "vit"),
    [
        (0, 0.0, 0.0),
        (1, 2e-7, 0.0),
        (250, 5e-5, 0.0),
        (500, 1e-4, 0.0),
        (501, 1e-4 * (1 - 1 / 88192) ** 0.9, 1e-7),
        (1000, 1e-4 * (1 - 500 / 88192) ** 0.9, 5e-5),
        (1500, 1e-4 * (1 - 1000 / 88192) ** 0.9, 1e-4),
        (44_346, 1e-4 * (1 - 43846 / 88192) ** 0.9, 1e-4 * (1 - 42846 / 87192) ** 0.9),
        (88_691, 1e-4 * (1 / 88192) ** 0.9, 1e-4 * (1 / 87192) ** 0.9),
        (88_692, 0.0, 0.0),
        (100_000, 0.0, 0.0),
    ],
)
def test_learning_rates_of_the_coco_recipe(step, head, vit):
    head_rate, vit_rate = schedules.learning_rate_schedules(
        schedules.RateOptions(), total_steps=COCO_STEPS
    )
    np.testing.assert_allclose(jax.jit(head_rate)(step), head, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(vit_rate)(step), vit, rtol=1e-5)


def test_warmups_shrink_with_a_shorter_run_and_stay_with_a_longer_one():
    options = schedules.RateOptions(learning_rate=1.0, published_steps=10_000)

    def lengths(total_steps):
        return schedules.warmup_steps(options, total_steps=total_steps)

    assert lengths(1_000) == (50, 100)
    assert lengths(10_000) == (500, 1000)
    assert lengths(20_000) == (500, 1000)
    head_rate, vit_rate = schedules.learning_rate_schedules(options, total_steps=1_000)
    assert head_rate(25) == 0.5 and head_rate(50) == 1.0
    assert vit_rate(50) == 0.0 and vit_rate(100) == 0.5 and vit_rate(150) == 1.0


def test_schedules_without_warmup_start_at_the_full_rate():
    options = schedules.RateOptions(learning_rate=1.0, warmup_head=0, warmup_vit=0)
    rates = schedules.learning_rate_schedules(options, total_steps=10)
    for rate in rates:
        np.testing.assert_allclose([rate(0), rate(5)], [1.0, 0.5**0.9], rtol=1e-6)


def test_warmups_longer_than_the_run_raise():
    with pytest.raises(ValueError, match="optimizer.published_steps"):
        options = schedules.RateOptions(published_steps=0)
        schedules.learning_rate_schedules(options, total_steps=1500)
