"""Training on several devices, in passes or processes, equals that on one device."""

import dataclasses
import math
import pickle

import jax
import numpy as np
import pytest

from eomt_jax.trees import leaf_path
from tests.meshes.mesh_run import BATCH, train
from tests.processes import run_processes

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Run:
    """The shape of a mesh, the parts of a batch, and the number of processes."""

    shape: tuple[int, int, int]
    accumulation: int = 1
    processes: int = 1


RUNS = {
    "data8": Run((8, 1, 1)),
    "fsdp8": Run((1, 8, 1)),
    "data2_fsdp2_tensor2": Run((2, 2, 2)),
    "one_device_four_parts": Run((1, 1, 1), accumulation=4),
    # Both are tested together, since each run takes a minute of compiling.
    "two_processes_four_parts": Run((2, 2, 2), accumulation=4, processes=2),
    "tensor_over_two_processes": Run((1, 1, 2), processes=2),
}

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("optimized_programs"),
    pytest.mark.skipif(jax.device_count() < 8, reason="wants eight devices"),
]


@pytest.fixture(scope="module")
def one_device():
    return train((1, 1, 1))


@pytest.fixture(scope="module", params=RUNS)
def split_up(request, tmp_path_factory):
    """Returns the run, and the results of each of its processes."""
    run = RUNS[request.param]
    if run.processes == 1:
        return run, [train(run.shape, accumulation=run.accumulation)]
    folder = tmp_path_factory.mktemp("processes")
    run_processes(
        "tests.meshes.mesh_run",
        [folder, "eomt", *run.shape, run.accumulation],
        count=run.processes,
        devices=math.prod(run.shape) // run.processes,
        folder=folder,
        # conftest.py turns optimizing off; the programs of this process are optimized.
        variables={"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        timeout=500,
    )
    paths = [folder / f"{i}.pickle" for i in range(run.processes)]
    return run, [pickle.loads(path.read_bytes()) for path in paths]


def leaves(*trees):
    paths = [
        leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(trees[0])
    ]
    return zip(paths, *(jax.tree.leaves(tree) for tree in trees))


def test_first_gradients_agree(one_device, split_up):
    _, (run, *_) = split_up
    for path, one, eight in leaves(one_device["gradients"], run["gradients"]):
        largest = np.abs(one).max()
        assert largest > 1e-8, path
        assert np.abs(one - eight).max() <= 1e-5 * largest, path


def test_ten_losses_and_gradient_norms_agree(one_device, split_up):
    _, (run, *_) = split_up
    np.testing.assert_allclose(run["losses"], one_device["losses"], rtol=TOLERANCE)
    np.testing.assert_allclose(run["norms"], one_device["norms"], rtol=1e-4)
    assert one_device["losses"][-1] < 0.9 * one_device["losses"][0]


def test_parameters_agree_after_ten_steps(one_device, split_up):
    _, (run, *_) = split_up
    trees = one_device["before"], one_device["after"], run["after"]
    for path, before, one, eight in leaves(*trees):
        tolerance = TOLERANCE * max(np.abs(one).max(), 0.1)
        assert np.abs(one - eight).max() <= tolerance, path
        assert np.abs(one - before).max() >= 100 * tolerance, path


def test_each_matching_callback_sees_its_own_shard_only(one_device, split_up):
    assert one_device["seen"] == {tuple(range(BATCH))}
    run, results = split_up
    data, fsdp, _ = run.shape
    rows = BATCH // (data * fsdp * run.accumulation)
    shards = [tuple(range(i, i + rows)) for i in range(0, BATCH, rows)]
    # The first process has the first devices, and so the first rows. Processes that
    # share one shard both have its rows.
    count = max(1, len(shards) // run.processes)
    for i, result in enumerate(results):
        first = i * len(shards) // run.processes
        assert result["seen"] == set(shards[first : first + count])


def test_processes_compute_the_same(split_up):
    _, (first, *others) = split_up
    for other in others:
        for name in ("losses", "norms"):
            assert other[name] == first[name]
        for path, one, two in leaves(first["after"], other["after"]):
            np.testing.assert_array_equal(two, one, err_msg=path)
