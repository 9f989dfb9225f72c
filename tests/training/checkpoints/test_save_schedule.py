import pytest

from eomt_jax.training.checkpoints import save_schedule
from eomt_jax.training.checkpoints.save_schedule import CheckpointOptions, SaveSchedule


@pytest.fixture
def clock(monkeypatch):
    """Returns the clock's seconds, as a list of one number that a test sets."""
    now = [100.0]
    monkeypatch.setattr(save_schedule.time, "monotonic", lambda: now[0])
    return now


def schedule(*, every_steps=0, every_minutes=0, ask_every=1, total_steps=9):
    options = CheckpointOptions(every_steps=every_steps, every_minutes=every_minutes)
    return SaveSchedule(options, ask_every=ask_every, total_steps=total_steps)


def test_every_so_many_steps_and_at_the_end():
    by_steps = schedule(every_steps=4)
    assert [step for step in range(1, 10) if by_steps.due(step)] == [4, 8, 9]


def test_zero_of_both_never_saves():
    assert not any(schedule().due(step) for step in range(1, 10))


def test_after_so_many_minutes_since_the_last_one(clock):
    by_time = schedule(every_minutes=2)
    clock[0] += 119
    assert not by_time.due(1)
    clock[0] += 1
    assert by_time.due(2)
    by_time.saved()
    clock[0] += 119
    assert not by_time.due(3)
    assert by_time.due(9)


def test_the_clock_is_asked_at_some_steps_only(clock):
    by_time = schedule(every_minutes=1, ask_every=3)
    clock[0] += 1000
    assert [step for step in range(1, 9) if by_time.due(step)] == [3, 6]
    assert not schedule(every_minutes=1, ask_every=0, total_steps=99).due(49)


def test_all_processes_go_by_the_first_one_s_clock(clock, monkeypatch):
    said = []
    monkeypatch.setattr(save_schedule.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        save_schedule.multihost_utils,
        "broadcast_one_to_all",
        lambda late: said.append(bool(late)) or True,
    )
    by_time = schedule(every_minutes=1, ask_every=2)
    # By this process's clock it isn't due, and at step 1 no process is asked.
    assert [by_time.due(step) for step in (1, 2)] == [False, True]
    assert said == [False]
