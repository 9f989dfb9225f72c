import itertools

import pytest

from eomt_jax.benchmark import serving


def test_every_answer_and_refusal_is_counted(monkeypatch):
    monkeypatch.setattr(serving, "_RETRY", 0.0)
    now = itertools.count()
    monkeypatch.setattr(serving.time, "monotonic", lambda: float(next(now)))
    statuses = iter([200, 503, 200, 503, 503, 200])
    found = serving.measure(1, 11.5, lambda: lambda: next(statuses))
    # The clock is read at the beginning, twice for each question, and twice at the end.
    times, num_refused, seconds = found
    assert (times, num_refused, seconds) == ([1.0, 1.0, 1.0], 3, 14.0)
    assert serving.format_row("1", found) == "| 1 | 0.2 | 1000 ms | 1000 ms | 3 |"


def test_answer_that_is_an_error_ends_the_measurement():
    with pytest.raises(RuntimeError, match=r"2 clients got no answer.*with 500"):
        serving.measure(2, 60.0, lambda: lambda: 500)
