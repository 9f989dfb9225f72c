import jax
import numpy as np
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


def fake_allgather(monkeypatch, others):
    """process_allgather among this process, the first, and `others`."""

    def gather(own):
        parts = [own, *(other(own) for other in others)]
        return np.stack(parts)

    monkeypatch.setattr(jax, "process_count", lambda: 1 + len(others))
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)


@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float64])
@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0), (1, 0, 4)])
def test_gather_rows_joins_uneven_parts_to_the_last_bit(monkeypatch, dtype, counts):
    rng = np.random.default_rng(0)
    parts = [(rng.random((count, 2, 5)) * 3).astype(dtype) for count in counts]

    def other(part):
        def contribute(own):
            if own.ndim == 0:
                return np.int32(len(part))
            padded = np.zeros_like(own)
            flat = np.frombuffer(part.tobytes(), np.uint8)
            padded[: len(part)] = flat.reshape(len(part), -1) if len(part) else 0
            return padded

        return contribute

    fake_allgather(monkeypatch, [other(part) for part in parts[1:]])
    gathered = processes.gather_rows(parts[0])
    assert gathered.dtype == dtype
    np.testing.assert_array_equal(gathered, np.concatenate(parts))


def test_gather_rows_of_one_process_are_its_own():
    rows = np.arange(6).reshape(3, 2)
    assert processes.gather_rows(rows) is rows
