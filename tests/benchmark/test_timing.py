"""Jobs are timed in turns."""

import jax.numpy as jnp
import pytest

from eomt_jax.benchmark import timing
from eomt_jax.benchmark.timing import MatrixRate, Timing, format_ratios, take_turns


def test_jobs_take_turns_and_none_is_always_first(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def job(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    jobs = {"a": job("a", 1.0), "b": job("b", 2.0), "c": job("c", 4.0)}
    timings = take_turns(jobs, rounds=3, warm_up=1)
    assert "".join(order) == "abc" + "abc" + "abc" + "bca" + "cab"
    assert timings["b"] == Timing("b", (2.0, 2.0, 2.0), first=2.0)


def test_ratio_is_of_the_rounds_and_not_of_the_medians():
    ours = Timing("ours", (1.0, 2.0, 8.0), first=9.0)
    theirs = Timing("theirs", (2.0, 4.0, 8.0), first=9.0)
    assert ours.ratio_to(theirs) == 2.0
    assert ours.median == 2.0
    # The quartiles are 1.5 and 5.
    assert ours.spread == pytest.approx((5 - 1.5) / 2 / 2)
    assert Timing("one", (3.0,), first=3.0).spread == 0.0


def test_ratios_compare_ours_with_others_and_with_ours_before():
    seconds = {"ours": 4.0, "fast": 2.0, "theirs": 8.0}
    timings = {name: Timing(name, (x,), first=x) for name, x in seconds.items()}

    def ratios(name):
        return format_ratios(timings, name, "ours", "fast", "missing").split(" | ")

    assert ratios("theirs") == ["2.00 ×", "4.00 ×", ""]
    assert ratios("ours") == ["", "2.00 ×", ""]
    assert ratios("fast") == ["", "", ""]


def test_matrix_rate_multiplies_what_it_says():
    rate = MatrixRate(jnp.bfloat16, size=64)
    assert rate.flops == 2 * 64**3
    assert rate().shape == (64, 64) and rate().dtype == jnp.bfloat16
