"""All of several real processes end, whatever happens to one of them."""

import os
import signal
import socket

import jax
import pytest

from eomt_jax.parallel import ending
from tests.processes import Processes

MODULE = "tests.chaos.group_process"


def ends(what, folder, *, count=2, variables=()):
    with Processes(
        MODULE,
        [what, folder],
        count=count,
        devices=1,
        folder=folder,
        variables=variables,
    ) as group:
        # JAX itself would end the processes by their heartbeats only after 50 s.
        return group.wait(timeout=45)


def test_error_in_one_process_ends_all_with_its_reason(tmp_path):
    first, second = ends("use_own_folder", tmp_path)
    for ended in (first, second):
        assert ended.returncode == 1
        assert ended.output.count("error: process 1 of 2: ValueError: ") == 1
        assert "of_1 on " in ended.output
        assert "is not the folder of that name that process 0 has" in ended.output
    assert "Traceback" not in first.output
    assert "Traceback" in second.output


def test_killed_process_is_named_by_the_others(tmp_path):
    first, killed, last = ends("kill_one", tmp_path, count=3)
    assert killed.returncode == -signal.SIGKILL
    for ended in (first, last):
        assert ended.returncode == 1
        assert "error: process 1 of 3 was lost" in ended.output
        assert "Traceback" not in ended.output


def test_nobody_outlives_the_first_process(tmp_path):
    killed, second = ends("kill_first", tmp_path)
    assert killed.returncode == -signal.SIGKILL
    # JAX may abort the process at the same moment, with a text of its own.
    assert second.returncode in (1, -signal.SIGABRT)
    assert (
        "process 0 of 2 was lost" in second.output
        or "leader task was preempted/died" in second.output
    )


def test_processes_take_turns_and_leave_together(tmp_path):
    ended = ends("end_well", tmp_path, count=3)
    assert [one.returncode for one in ended] == [os.EX_TEMPFAIL] * 3
    times = [
        tuple(map(float, (tmp_path / f"turn_{i}").read_text().split()))
        for i in range(3)
    ]
    assert times[0][1] <= times[1][0]  # the first process's end, the others' begin
    assert times[0][1] <= times[2][0]
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (0, "not all 2 processes came; look at the logs of the others."),
        (1, "no answer ([Errno 111] Connection refused). Check that process 0 runs"),
    ],
)
def test_process_that_nobody_joins_ends_and_says_where_it_waited(
    tmp_path, index, reason
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }
    (ended,) = ends("join", tmp_path, count=1, variables=variables)
    assert ended.returncode == 1
    expected = f"error: process {index} of 2 waited 2 s at {address}: {reason}"
    assert expected in ended.output
    assert "Traceback" not in ended.output


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("UNAVAILABLE: Gloo AllGather failed"), True),
        (raised(RuntimeError("not saved"), ValueError("Barrier timed out")), True),
        (ConnectionResetError("Connection reset by peer"), False),
        (raised(ValueError("no such class"), OSError("heartbeat.json")), False),
        (None, False),
    ],
)
def test_errors_that_other_processes_cause_are_told_apart(error, expected):
    assert ending._is_echo(error) == expected


def test_one_process_ends_as_it_did():
    assert jax.process_count() == 1
    with pytest.raises(KeyError), ending.ending_together():
        raise KeyError("key")
