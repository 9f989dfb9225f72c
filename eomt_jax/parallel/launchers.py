"""Finds out which processes a TPU pod, SLURM or Open MPI started as one run.

JAX detects where their first process is. It leaves open whether there are several
processes at all (it reads SLURM_NTASKS, which a single process has too), which GPUs
belong to which of them, and what a launcher has not set.
"""

import dataclasses
import glob
import importlib.util
import os
import re
import urllib.request
from collections.abc import Mapping

# A Google Cloud machine has a metadata server, which answers at once.
_METADATA = "http://{host}/computeMetadata/v1/instance/attributes/{name}"
_METADATA_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Launch:
    """Values with which a process joins the others of its run.

    Attributes:
      coordinator: host:port of process 0; "" lets JAX find it, which knows the
        launcher.
      num_processes: number of processes in the run; None lets JAX find it.
      process_id: number of this process, from 0; None lets JAX find it.
      local_device_ids: which of the machine's GPUs this process takes; None lets JAX
        choose: all, or under SLURM and Open MPI one GPU for each process.
      described: the coordinator in words, for messages.
    """

    coordinator: str
    num_processes: int | None
    process_id: int | None
    local_device_ids: tuple[int, ...] | None
    described: str


@dataclasses.dataclass(frozen=True)
class _Launcher:
    """Names of the variables that a launcher sets in each process."""

    name: str
    num_processes: str
    process_id: str
    local_id: str
    local_count: str


# Open MPI comes first: mpirun may start its daemons by srun, and then SLURM's variables
# count the daemons. SLURM's variables of the step are read, since SLURM_NTASKS is also
# set in the shell of salloc and the script of sbatch, which are a single process.
_LAUNCHERS = (
    _Launcher(
        "Open MPI",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Launcher(
        "SLURM",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_STEP_TASKS_PER_NODE",
    ),
)
# The variables that JAX reads to find the coordinator by itself.
_SELF_DETECTED = {
    "Open MPI": ("OMPI_MCA_orte_hnp_uri",),
    "SLURM": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS"),
}


def find_launch(
    environment: Mapping[str, str],
    *,
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
) -> Launch | None:
    """Returns how to join the other processes, or None for a run of one process.

    Values that are not given are read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID, or from Open MPI, SLURM or the TPU pod that this process runs
    on.

    Args:
      environment: os.environ.
      coordinator: host:port of process 0; "auto" leaves everything to JAX, which also
        knows Kubernetes.
      num_processes: number of processes in the run; 0 if not given.
      process_id: 0 to num_processes − 1; −1 if not given.

    Raises:
      ValueError: a part is missing or contradicts another.
    """
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS", "")
    if coordinator == "auto":
        return Launch("", None, None, None, "the coordinator that JAX detects")
    launcher = next((one for one in _LAUNCHERS if _count(environment, one) > 1), None)
    num_processes = num_processes or _number(environment, "JAX_NUM_PROCESSES", 0)
    if process_id < 0:
        process_id = _number(environment, "JAX_PROCESS_ID", -1)
    if not coordinator and (num_processes > 1 or process_id >= 0):
        raise ValueError(
            f"num_processes = {num_processes or 'unset'} and process_id = "
            f"{process_id if process_id >= 0 else 'unset'} without a coordinator: give "
            "every process --coordinator=HOST:PORT, the address of process 0"
        )
    if coordinator:
        if launcher is not None:
            num_processes = num_processes or _count(environment, launcher)
            if process_id < 0:
                process_id = _number(environment, launcher.process_id, -1)
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"coordinator = {coordinator!r} wants num_processes ≥ 1 and process_id "
                f"from 0 to num_processes − 1, got {num_processes} and {process_id}"
            )
        if not re.fullmatch(r".+:\d+", coordinator):
            raise ValueError(f"coordinator = {coordinator!r} is not HOST:PORT")
        if num_processes == 1:
            return None
        return Launch(
            coordinator,
            num_processes,
            process_id,
            _local_devices(environment, launcher),
            coordinator,
        )
    if launcher is not None:
        return _launched(environment, launcher)
    if _num_pod_workers(environment) > 1:
        return Launch("", None, None, None, "the first worker of this TPU pod")
    return None


def _launched(environment: Mapping[str, str], launcher: _Launcher) -> Launch:
    """Returns the launch of a process of srun or mpirun; JAX finds its coordinator."""
    missing = [
        name for name in _SELF_DETECTED[launcher.name] if name not in environment
    ]
    count = _count(environment, launcher)
    if missing:
        raise ValueError(
            f"{launcher.name} started {count} processes but doesn't tell where the "
            f"first one runs ({missing[0]} is not set): give all of them "
            "--coordinator=HOST:PORT, a free port on the machine of process 0"
        )
    return Launch(
        "",
        count,
        _number(environment, launcher.process_id, -1),
        _local_devices(environment, launcher),
        f"the machine that {launcher.name} names first",
    )


def _count(environment: Mapping[str, str], launcher: _Launcher) -> int:
    return _number(environment, launcher.num_processes, 0)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, str(default))
    if not re.fullmatch(r"-?\d+", value):
        raise ValueError(f"the environment variable {name} = {value!r} is no number")
    return int(value)


def _local_devices(
    environment: Mapping[str, str], launcher: _Launcher | None
) -> tuple[int, ...] | None:
    """Returns the GPUs that this process takes of those that it sees.

    JAX would take the GPU with the process's number on its machine. That is one of
    eight if a single process was started for all of them, and none if the launcher
    shows each process only its own GPU.
    """
    if launcher is None or "JAX_LOCAL_DEVICE_IDS" in environment:  # which JAX reads
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        num_gpus = len(glob.glob("/dev/nvidia[0-9]*"))
    else:
        num_gpus = len([name for name in visible.split(",") if name])
    if num_gpus <= 1:
        return (0,) if num_gpus else None
    # The variable is "4", or in SLURM "4(x2),3" for several machines.
    counts = re.sub(r"\(x\d+\)", "", environment.get(launcher.local_count, "1"))
    share = max(1, num_gpus // max(map(int, counts.split(","))))
    first = _number(environment, launcher.local_id, 0) * share
    return tuple(range(first, first + share))


def _num_pod_workers(environment: Mapping[str, str]) -> int:
    """Returns the number of machines of this TPU pod; 1 without a TPU."""
    if "tpu" not in (environment.get("JAX_PLATFORMS") or "tpu").split(","):
        return 1
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in environment:
            return slices * len(environment[name].split(","))
    # Importing jax sets this variable if the machine has no TPU chip, so that a laptop
    # never asks the network.
    has_library = importlib.util.find_spec("libtpu") or "TPU_LIBRARY_PATH" in os.environ
    if "TPU_SKIP_MDS_QUERY" in environment or not has_library:
        return 1
    workers = _metadata(environment, "worker-network-endpoints") or "this one"
    stated = re.search(
        r"MEGASCALE_NUM_SLICES: *'(\d+)'", _metadata(environment, "tpu-env")
    )
    slices = int(stated[1]) if stated else slices
    return slices * len(workers.split(","))


def _metadata(environment: Mapping[str, str], name: str) -> str:
    """Returns an attribute of this Google Cloud machine; "" if no server answers."""
    host = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        _METADATA.format(host=host, name=name), headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
            return answer.read().decode()
    except OSError:
        return ""
