"""Training Mask2Former on eight devices of two processes equals that on one device.

Its gradients are those of sampled maps and of batch statistics over all images, which
neither device sees as a whole. Programs are not optimized, as in most tests: these take
minutes to optimize.
"""

import pickle

import jax
import numpy as np
import pytest

from eomt_jax.trees import leaves_by_path
from tests.meshes.mesh_run import train
from tests.processes import run_processes

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(jax.device_count() < 8, reason="wants eight devices"),
]


@pytest.fixture(scope="module", params=["adapter", "single_scale"])
def runs(request, tmp_path_factory):
    """Returns the results on one device, and of two processes of four devices each."""
    folder = tmp_path_factory.mktemp("processes")
    run_processes(
        "tests.meshes.mesh_run",
        [folder, request.param, 2, 2, 2, 1],
        count=2,
        devices=4,
        folder=folder,
        timeout=500,
    )
    results = [pickle.loads((folder / f"{i}.pickle").read_bytes()) for i in range(2)]
    return train((1, 1, 1), network=request.param), results


def test_losses_and_gradient_norms_agree(runs):
    one, (eight, _) = runs
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(eight["norms"], one["norms"], rtol=1e-3)
    assert one["losses"][-1] < 0.9 * one["losses"][0]


def test_first_gradients_agree(runs):
    """Some gradients are 0, since points do not depend on queries at first."""
    one, (eight, _) = runs
    found, num_zero = leaves_by_path(eight["gradients"]), 0
    expected = leaves_by_path(one["gradients"])
    for path, gradient in expected.items():
        largest = np.abs(gradient).max()
        num_zero += largest < 1e-7
        error = np.abs(found[path] - gradient).max()
        assert error <= 1e-4 * largest + 1e-9, (path, error, largest)
    assert num_zero < len(expected) / 4


def test_parameters_and_batch_statistics_agree_after_ten_steps(runs):
    one, (eight, _) = runs
    before, after = leaves_by_path(one["before"]), leaves_by_path(one["after"])
    found = leaves_by_path(eight["after"])
    # Points and masks react to the last digits, so ten steps drift further than one.
    for path, value in after.items():
        tolerance = 5e-4 * np.abs(value - before[path]).max() + 3e-5
        assert np.abs(found[path] - value).max() <= tolerance, path
    moved = [path for path in after if np.abs(after[path] - before[path]).max() > 1e-3]
    assert len(moved) > 0.8 * len(after)
    stats = {path for path in after if path.startswith("batch_stats/")}
    assert stats <= set(moved)


def test_processes_compute_the_same(runs):
    _, (first, second) = runs
    assert first["losses"] == second["losses"]
    jax.tree.map(np.testing.assert_array_equal, first["after"], second["after"])
