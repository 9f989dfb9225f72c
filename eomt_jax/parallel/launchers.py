"""Who started this process, and with how many others: TPU pods, SLURM, Open MPI."""

import dataclasses
import glob
import importlib.util
import os
import re
import urllib.request
from collections.abc import Mapping

# The metadata server of a Google Cloud machine answers at once or is not there.
_METADATA = "http://{host}/computeMetadata/v1/instance/attributes/{name}"
_METADATA_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a process joins the others of its run.

    Attributes:
      coordinator: host:port of process 0; "" leaves finding it to JAX, which knows the
        launcher.
      num_processes: of the run; None leaves it to JAX.
      process_id: of this one, from 0; None leaves it to JAX.
      local_device_ids: which of the machine's GPUs this process takes; None leaves it
        to JAX: all, or under SLURM and Open MPI one GPU a process.
      described: the coordinator in words, for messages.
    """

    coordinator: str
    num_processes: int | None
    process_id: int | None
    local_device_ids: tuple[int, ...] | None
    described: str


@dataclasses.dataclass(frozen=True)
class _Launcher:
    """Names of the variables in which a launcher tells each process its place."""

    name: str
    num_processes: str
    process_id: str
    local_id: str
    local_count: str


# Open MPI comes first: mpirun may start its daemons by srun, and then SLURM's variables
# count these. Of SLURM those of the step count: the shell of salloc and the script of
# sbatch see SLURM_NTASKS too, and they are one process.
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
# What JAX reads to find the coordinator by itself.
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
    """How to join the others, or None for a run of one process.

    What is not given is read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, else from Open MPI, SLURM or the TPU pod that this process runs on.

    Args:
      environment: os.environ.
      coordinator: host:port of process 0; "auto" leaves everything to JAX, which knows
        Kubernetes besides.
      num_processes: of the run; 0 where it is not given.
      process_id: 0 to num_processes − 1; −1 where it is not given.

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
    """A process of srun or mpirun, whose coordinator JAX finds."""
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
    """This process's share of the GPUs that it sees.

    JAX would take the GPU of the process's number on its machine: one of eight where a
    single process was started for them all, and none where the launcher shows every
    process its own GPU alone.
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
    # "4", and in SLURM "4(x2),3" by machine.
    counts = re.sub(r"\(x\d+\)", "", environment.get(launcher.local_count, "1"))
    share = max(1, num_gpus // max(map(int, counts.split(","))))
    first = _number(environment, launcher.local_id, 0) * share
    return tuple(range(first, first + share))


def _num_pod_workers(environment: Mapping[str, str]) -> int:
    """Machines of the TPU slices that this one is part of; 1 without a TPU."""
    if "tpu" not in (environment.get("JAX_PLATFORMS") or "tpu").split(","):
        return 1
    slices = _number(environment, "MEGASCALE_NUM_SLICES", 1)
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in environment:
            return slices * len(environment[name].split(","))
    # Importing jax sets this where the machine has no TPU chip, so that a laptop never
    # asks the network.
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
    """What a Google Cloud machine says about itself; "" where nobody answers."""
    host = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        _METADATA.format(host=host, name=name), headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
            return answer.read().decode()
    except OSError:
        return ""
