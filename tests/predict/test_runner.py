import dataclasses
import functools
import unittest.mock

import jax
import numpy as np
import pytest

from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.mesh import MeshOptions, create_mesh, replicated
from eomt_jax.pipeline.transforms import cover_size
from eomt_jax.predict.runner import Runner
from eomt_jax.types import Batch, Targets
from tests.predict.channel_network import (
    CANVAS,
    INFO,
    SIZE,
    TRACES,
    BrightestChannel,
    channel_params,
)

BATCH = 8


@pytest.fixture
def model():
    return BrightestChannel()


@functools.cache
def runner_of(task, skip_padding=False):
    """Returns a Runner that all tests share, since compiling takes the most time."""
    return Runner(BrightestChannel(), INFO, task=task, skip_padding=skip_padding)


@pytest.fixture
def params():
    return channel_params()


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    original = rng.integers(20, 40, (BATCH, 2)).astype(np.int32)
    content = np.round(original * (SIZE / original.max(1, keepdims=True)))
    zeros = np.zeros((BATCH, INFO.max_segments), np.int32)
    return Batch(
        image=np.kron(
            rng.permuted(np.tile([255, 0, 0], (BATCH, 4, 4, 1)), axis=-1),
            np.ones((1, SIZE // 4, SIZE // 4, 1)),
        ).astype(np.uint8),
        targets=Targets(
            id_map=np.zeros((BATCH, *CANVAS), np.uint8),
            labels=zeros,
            valid=zeros.astype(bool),
            is_crowd=zeros.astype(bool),
        ),
        valid=np.ones(BATCH, bool),
        example_index=np.arange(BATCH, dtype=np.int32),
        content_size=content.astype(np.int32),
        original_size=original,
    )


@pytest.fixture
def windows(batch):
    """Returns the batch for `task="semantic"`: photographs in up to 3 windows."""
    rng = np.random.default_rng(1)
    original = batch.original_size.copy()
    original[:3] = [[40, 17], [16, 48], [9, 20]]
    content = [cover_size(*size, SIZE) for size in original.tolist()]
    pixels = rng.integers(0, 256, (BATCH, 3, 8, 8, 3)).repeat(4, axis=2)
    return batch.replace(
        image=pixels.repeat(4, axis=3).astype(np.uint8),
        content_size=np.array(content, np.int32),
        original_size=original,
    )


@pytest.mark.parametrize("skip_padding", [False, True])
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_runner_eight_devices_equal_one(
    model, params, batch, windows, task, skip_padding
):
    batch = windows if task == "semantic" else batch
    if skip_padding:
        # All photographs are as wide as the first, so that a part of the input holds
        # all.
        batch = batch.replace(content_size=np.full((BATCH, 2), (20, SIZE), np.int32))
    alone = runner_of(task, skip_padding)(params, batch)
    mesh = create_mesh(MeshOptions(data=2, fsdp=2, tensor=2))
    placed = place_batch(batch, mesh)
    runner = Runner(model, INFO, task=task, mesh=mesh, skip_padding=skip_padding)
    shared = runner(jax.device_put(params, replicated(mesh)), placed)
    leaves = jax.tree.leaves(alone)
    for found, expected in zip(jax.tree.leaves(shared), leaves, strict=True):
        assert found.sharding.shard_shape(found.shape)[0] == BATCH // 4
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.unique(leaves[0]).size > 1, "there must be something to compare"


def test_runner_task_is_the_data_sets_own_by_default(model, params, batch):
    info = dataclasses.replace(INFO, task="instance")
    assert Runner(model, info, task="panoptic").task == "panoptic"
    found = Runner(model, info)(params, batch)
    num_pairs = 3 * INFO.num_classes
    assert found.mask_bits.shape == (BATCH, num_pairs, CANVAS[0], CANVAS[1] // 8)
    assert found.labels.shape == found.scores.shape == (BATCH, num_pairs)


def test_runner_segments_are_those_in_the_id_map(params, batch):
    found = jax.device_get(runner_of("panoptic")(params, batch))
    for i in range(BATCH):
        height, width = batch.original_size[i]
        present = set(np.unique(found.id_map[i])) - {0}
        assert present == set(np.flatnonzero(found.valid[i]) + 1)
        assert not found.id_map[i, height:].any()
        assert not found.id_map[i, :, width:].any()


def test_runner_semantic_window_past_the_last_has_no_influence(params, windows):
    runner = runner_of("semantic")
    found = runner(params, windows)
    num_windows = -(-windows.content_size.max(1) // SIZE)
    assert set(num_windows) == {2, 3}
    changed = windows.image.copy()
    changed[num_windows == 2, 2] = 255 - changed[num_windows == 2, 2]
    other = runner(params, windows.replace(image=changed))
    np.testing.assert_array_equal(found.label_map, other.label_map)
    for label_map, (height, width) in zip(found.label_map, windows.original_size):
        assert (np.asarray(label_map[:height, :width]) >= 0).all()
        assert (label_map[height:] == -1).all() and (label_map[:, width:] == -1).all()


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_runner_other_original_sizes_do_not_recompile(params, batch, windows, task):
    batch = windows if task == "semantic" else batch
    runner = runner_of(task)
    runner(params, batch)
    num_traces = len(TRACES)
    flipped = batch.replace(
        content_size=batch.content_size[:, ::-1],
        original_size=np.minimum(batch.original_size[:, ::-1], CANVAS),
    )
    runner(params, flipped)
    assert len(TRACES) == num_traces > 0


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_runner_computes_the_part_that_shows_the_photographs(params, batch, task):
    runner = Runner(BrightestChannel(), INFO, task=task, skip_padding=True)
    content = np.full((BATCH, 2), (18, SIZE), np.int32)
    runner(params, batch.replace(content_size=content))
    assert TRACES[-1] == (1, 20, SIZE, 3)
    num_traces = len(TRACES)
    # A row that only fills up the batch is ignored, another photograph isn't.
    content[-1] = SIZE
    valid = np.arange(BATCH) < BATCH - 1
    runner(params, batch.replace(content_size=content, valid=valid))
    assert len(TRACES) == num_traces
    runner(params, batch.replace(content_size=content))
    assert TRACES[-1] == (1, SIZE, SIZE, 3)


def test_runner_regroups_only_where_padding_is_skipped(batch, windows):
    assert runner_of("panoptic").regroup([batch])[0] is batch
    assert runner_of("semantic", True).regroup([windows])[0] is windows
    alone = list(runner_of("panoptic", True).regroup([batch]))
    assert [len(part.valid) for part in alone] == [1] * BATCH
    mesh = create_mesh(devices=jax.devices()[:2])
    runner = Runner(BrightestChannel(), INFO, mesh=mesh, skip_padding=True)
    together = list(runner.regroup([batch]))
    assert {len(part.valid) for part in together} == {BATCH}


def test_runner_in_several_processes_does_not_skip_padding(model):
    mesh = unittest.mock.Mock(spec=jax.sharding.Mesh, is_multi_process=True)
    with pytest.raises(ValueError, match=r"eval\.skip_padding to False"):
        Runner(model, INFO, mesh=mesh, skip_padding=True)
    # The semantic task has no padding to skip.
    Runner(model, INFO, task="semantic", mesh=mesh, skip_padding=True)


def test_runner_unknown_task_is_refused(model):
    with pytest.raises(ValueError, match="'depth'"):
        Runner(model, INFO, task="depth")


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_runner_batch_of_another_task_is_refused(params, batch, windows, task):
    wrong = batch if task == "semantic" else windows
    with pytest.raises(ValueError, match=rf"\(8, .*{task}.*windows"):
        runner_of(task)(params, wrong)
