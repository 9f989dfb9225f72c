import os

import jax
import numpy as np
import pytest

from eomt_jax.parallel import processes


@pytest.fixture
def joined(monkeypatch):
    """Returns the arguments of jax.distributed.initialize, which isn't called."""
    calls = []

    def initialize(address, count, index, devices, **options):
        calls.append((address, count, index, devices, options))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return calls


@pytest.fixture(autouse=True)
def unlaunched(monkeypatch):
    """Sets an environment without variables of a launcher."""
    for name in os.environ:
        if name.startswith(("JAX_COORD", "JAX_NUM", "JAX_PROC", "SLURM", "OMPI")):
            monkeypatch.delenv(name)


@pytest.fixture
def preemption_service():
    yield
    jax.config.update("jax_enable_preemption_service", True)


def test_one_process_joins_nobody_and_is_main(joined):
    processes.initialize()
    assert joined == []
    assert processes.is_main()


def test_initialize_joins_with_times_that_end_within_a_minute(joined):
    processes.initialize("host:1234", num_processes=2, process_id=1)
    ((address, count, index, devices, options),) = joined
    assert (address, count, index, devices) == ("host:1234", 2, 1, None)
    assert options["cluster_detection_method"] == "deactivate"
    assert processes.JOIN_SECONDS < 60 < options["initialization_timeout"]
    assert options["heartbeat_timeout_seconds"] < 60


def test_sigterm_stays_as_it_was_for_those_that_save_nothing(
    joined, preemption_service
):
    def noted():
        return jax.config.jax_enable_preemption_service

    processes.initialize("h:1", num_processes=2, process_id=1, saves_on_sigterm=False)
    assert not noted()
    processes.initialize("h:1", num_processes=2, process_id=1)
    assert noted()


def test_taken_port_is_told(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("UNKNOWN: Failed to start RPC server\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match="process 0 of 2 cannot start .* at host:1234"):
        processes.initialize("host:1234", num_processes=2, process_id=0)


def fake_allgather(monkeypatch, others):
    """Replaces process_allgather by one of this process, the first, and `others`."""

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
