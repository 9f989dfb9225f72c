"""Launches are found from the variables that launchers set."""

import os

import jax
import pytest

from eomt_jax.parallel import launchers
from eomt_jax.parallel.launchers import find_launch

# The variables of srun in the third of eight tasks, four on each of two machines.
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
ADDRESS = {
    "JAX_COORDINATOR_ADDRESS": "node1:4000",
    "JAX_NUM_PROCESSES": "3",
    "JAX_PROCESS_ID": "2",
}


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setattr(launchers.glob, "glob", lambda pattern: [])


def found(environment, **given):
    launch = find_launch(environment, **given)
    return launch and (launch.coordinator, launch.num_processes, launch.process_id)


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        pytest.param({}, {}, None, id="laptop"),
        pytest.param(ADDRESS, {}, ("node1:4000", 3, 2), id="variables"),
        pytest.param(
            {},
            {"coordinator": "h:1", "num_processes": 2, "process_id": 0},
            ("h:1", 2, 0),
            id="flags",
        ),
        pytest.param(ADDRESS, {"process_id": 1}, ("node1:4000", 3, 1), id="both"),
        pytest.param(
            ADDRESS | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
            {},
            None,
            id="one of one",
        ),
        pytest.param({}, {"coordinator": "auto"}, ("", None, None), id="auto"),
        pytest.param(SLURM, {}, ("", 8, 6), id="srun"),
        pytest.param(SLURM, {"coordinator": "h:1"}, ("h:1", 8, 6), id="srun, address"),
        pytest.param(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, {}, None, id="one task"),
        pytest.param(
            {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")},
            {},
            None,
            id="shell of salloc, script of sbatch",
        ),
        pytest.param(OPEN_MPI, {}, ("", 4, 3), id="mpirun"),
        pytest.param(SLURM | OPEN_MPI, {}, ("", 4, 3), id="mpirun under SLURM"),
        pytest.param(
            {"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"},
            {},
            ("", None, None),
            id="TPU pod",
        ),
        pytest.param(
            {"TPU_WORKER_HOSTNAMES": "localhost"}, {}, None, id="one TPU machine"
        ),
        pytest.param(
            {"TPU_WORKER_HOSTNAMES": "t-0", "MEGASCALE_NUM_SLICES": "2"},
            {},
            ("", None, None),
            id="two TPU slices of one machine each",
        ),
        pytest.param(
            {"TPU_WORKER_HOSTNAMES": "t-0,t-1", "JAX_PLATFORMS": "cpu"},
            {},
            None,
            id="TPU pod, but on its CPU",
        ),
    ],
)
def test_find_launch(monkeypatch, environment, given, expected):
    monkeypatch.setattr(launchers, "_metadata", lambda *args: pytest.fail("asked"))
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: None)
    assert found(environment, **given) == expected


@pytest.mark.parametrize(
    ("endpoints", "tpu_env", "joins"),
    [
        ("10.0.0.2", "", False),
        ("10.0.0.2,10.0.0.3", "ZONE: 'eu'\n", True),
        ("w-0:0:10.0.0.2", "MEGASCALE_NUM_SLICES: '2'\n", True),
        ("", "", False),
    ],
)
def test_find_launch_asks_the_machine_where_it_has_a_tpu(
    monkeypatch, endpoints, tpu_env, joins
):
    answers = {"worker-network-endpoints": endpoints, "tpu-env": tpu_env}
    monkeypatch.setattr(launchers, "_metadata", lambda _, name: answers[name])
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: name)
    assert (find_launch({}) is not None) == joins
    # Importing JAX sets this on a machine without a TPU.
    assert find_launch({"TPU_SKIP_MDS_QUERY": "1"}) is None


@pytest.mark.parametrize(
    ("visible", "local_id", "tasks", "devices"),
    [
        ("0,1,2,3", "2", "4(x2)", (2,)),  # a GPU a task
        ("0", "2", "4(x2)", (0,)),  # each task is shown its own alone
        ("0,1,2,3,4,5,6,7", "0", "1(x2)", tuple(range(8))),  # a task a machine
        ("0,1,2,3,4,5,6,7", "1", "2", (4, 5, 6, 7)),
        ("0,1,2,3", "1", "4,2", (1,)),
        ("", "2", "4(x2)", None),
        (None, "2", "4(x2)", None),
    ],
)
def test_gpus_of_a_machine_are_shared_out(visible, local_id, tasks, devices):
    environment = SLURM | {
        "SLURM_LOCALID": local_id,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
    }
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    assert find_launch(environment).local_device_ids == devices
    environment["JAX_LOCAL_DEVICE_IDS"] = "3"  # JAX reads it itself
    assert find_launch(environment).local_device_ids is None


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        ({}, {"coordinator": "h:1", "num_processes": 2}, "process_id from 0 to"),
        (ADDRESS, {"process_id": 3}, "got 3 and 3"),
        (ADDRESS, {"coordinator": "node1"}, "'node1' is not HOST:PORT"),
        ({}, {"num_processes": 2, "process_id": 0}, "give .*--coordinator=HOST:PORT"),
        ({"JAX_NUM_PROCESSES": "2"}, {}, "give every process --coordinator"),
        ({"JAX_NUM_PROCESSES": "two"}, {}, "JAX_NUM_PROCESSES = 'two' is no number"),
        (
            {k: v for k, v in OPEN_MPI.items() if "uri" not in k},
            {},
            "Open MPI started 4 processes but .*--coordinator=HOST:PORT",
        ),
    ],
)
def test_find_launch_refuses_what_is_incomplete(environment, given, message):
    with pytest.raises(ValueError, match=message):
        find_launch(environment, **given)


def test_jax_finds_the_same_launchers(monkeypatch):
    """JAX's own detection finds the values that are left to it."""
    for name in [n for n in os.environ if n.startswith(("SLURM", "OMPI", "JAX_C"))]:
        monkeypatch.delenv(name)
    made = []
    module = jax._src.distributed

    class Made(Exception):
        pass

    def make(address, index, **options):
        made.append((address, index))
        raise Made

    monkeypatch.setattr(module._jax, "get_distributed_runtime_client", make)
    for environment, address in ((SLURM, "gpu07:62055"), (OPEN_MPI, "10.96.0.1:62624")):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            launch = find_launch(environment)
            with pytest.raises(Made):
                module.State().initialize(None, launch.num_processes, launch.process_id)
        assert made.pop() == (address, launch.process_id)
