import jax
import pytest

from eomt_jax.parallel import processes


@pytest.fixture
def calls(monkeypatch):
    """What jax.distributed.initialize was called with, without calling it."""
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    return calls


def test_one_process_joins_nobody_and_is_main(calls):
    processes.initialize()
    assert calls == []
    assert processes.is_main()


def test_addresses_come_from_arguments_or_environment(calls, monkeypatch):
    processes.initialize("host:1234", num_processes=2, process_id=1)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "other:99")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    processes.initialize()
    processes.initialize("auto")
    assert calls == [("host:1234", 2, 1), ("other:99", 4, 0), ()]


def test_incomplete_addresses_raise(calls):
    with pytest.raises(ValueError, match="process_id from 0 to num_processes"):
        processes.initialize("host:1234", num_processes=2)
