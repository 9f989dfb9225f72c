"""Checkpoints are restored whole, in place, and only into the run they belong to."""

import contextlib
import dataclasses
import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.training.checkpoints.saving import Checkpoints, StorageError
from eomt_jax.training.checkpoints.stored_step import DataPosition, Score
from eomt_jax.training.state import TrainState

POSITION = DataPosition(
    next_example=24,
    batch_size=8,
    seed=3,
    dataset="shapes",
    split="train",
    fingerprint="abc",
)


def make_state(seed: int, *, devices: int = 1) -> TrainState:
    mesh = create_mesh(
        MeshOptions(data=1, fsdp=devices), devices=jax.devices()[:devices]
    )
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "layer": {"kernel": jax.random.normal(keys[0], (8, 4))},
        "bias": jax.random.normal(keys[1], (8,)),
    }
    opt_state = optax.scale_by_adam().init(params)
    opt_state = opt_state._replace(mu=jax.tree.map(lambda x: x + 1, params))
    params, opt_state = jax.tree.map(
        lambda x: jax.device_put(
            x, split if x.ndim else NamedSharding(mesh, PartitionSpec())
        ),
        (params, opt_state),
    )
    rest = jax.device_put(
        (jnp.int32(seed), jax.random.key_data(keys[2])),
        NamedSharding(mesh, PartitionSpec()),
    )
    return TrainState(step=rest[0], params=params, opt_state=opt_state, rng=rest[1])


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_restore_gives_back_every_leaf_and_the_position(tmp_path):
    state = make_state(5)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(5, state, POSITION)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 5
        assert_equal(checkpoints.restore(5, make_state(6)), state)
        assert checkpoints.read_position(5) == POSITION


def test_restore_onto_another_mesh_follows_its_sharding(tmp_path):
    if jax.device_count() < 4:
        pytest.skip("needs 4 (fake) devices")
    state = make_state(5, devices=4)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(5, state, POSITION)
        checkpoints.wait()
        like = make_state(6, devices=2)
        restored = checkpoints.restore(5, like)
    assert_equal(restored, state)
    assert restored.params["bias"].sharding == like.params["bias"].sharding


@pytest.mark.parametrize("change", ["resized", "added", "removed", "retyped"])
def test_state_of_other_shapes_is_refused_by_name(tmp_path, change):
    state = make_state(5)
    like = make_state(6)
    bias = like.params.pop("bias")
    if change == "resized":
        like.params["bias"] = bias[:4]
    elif change == "added":
        like.params.update(bias=bias, queries=bias)
    elif change == "retyped":
        like.params["bias"] = bias.astype(jnp.bfloat16)
    message = {
        "resized": r"bias: float32 \(8,\) then, float32 \(4,\) now",
        "added": r"queries: none then, float32 \(8,\) now",
        "removed": r"bias: float32 \(8,\) then, none now",
        "retyped": r"bias: float32 \(8,\) then, bfloat16 \(8,\) now",
    }
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(5, state, POSITION)
        checkpoints.wait()
        with pytest.raises(ValueError, match=message[change]):
            checkpoints.restore(5, like)


def test_saved_arrays_may_be_donated_while_they_are_written(tmp_path):
    """Training goes on in the same buffers before the write has ended."""
    state = make_state(5)
    expected = jax.tree.map(np.array, state)
    spoil = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(5, state, POSITION)
        jax.block_until_ready(spoil(state))
        checkpoints.wait()
        assert_equal(checkpoints.restore(5, make_state(6)), expected)


def test_only_the_newest_are_kept_and_saving_twice_is_harmless(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 3):
            checkpoints.save(step, make_state(step), POSITION)
        checkpoints.wait()
    kept = {path.name for path in tmp_path.iterdir() if path.name.isdigit()}
    assert kept == {"2", "3"}


def kept(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_best_are_kept_beside_the_newest(tmp_path):
    scores = {1: 30.0, 2: 50.0, 3: 40.0, 4: None, 5: 50.0, 6: 10.0, 7: None}
    with Checkpoints(tmp_path, keep=1, keep_best=2) as checkpoints:
        for step, value in scores.items():
            score = None if value is None else Score("PQ", value)
            checkpoints.save(step, make_state(step), POSITION, score=score)
    assert kept(tmp_path) == [2, 5, 7]
    # Another process knows these scores too; the later of equal ones is the better.
    with Checkpoints(tmp_path, keep=1, keep_best=1) as checkpoints:
        assert checkpoints.best() == (5, Score("PQ", 50.0))
        assert str(tmp_path / "5") in checkpoints.describe_best()
        checkpoints.save(8, make_state(8), POSITION, score=Score("PQ", 60.0))
        checkpoints.save(9, make_state(9), POSITION)
    assert kept(tmp_path) == [8, 9]


def test_newest_stays_until_the_next_one_is_complete(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, make_state(1), POSITION)
        checkpoints.save(2, make_state(2), POSITION)
        checkpoints.wait()
        assert kept(tmp_path) == [1, 2]
        checkpoints.save(3, make_state(3), POSITION)
        assert kept(tmp_path)[0] == 2


def test_half_removed_checkpoint_is_a_leftover(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError("killed here")

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step), POSITION)
        checkpoints.wait()
        monkeypatch.setattr(type(checkpoints.folder), "rmtree", refuse)
    monkeypatch.undo()
    assert kept(tmp_path) == [2]
    assert len(list(tmp_path.iterdir())) == 2
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.steps() == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_half_written_checkpoint_is_not_taken_for_one(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(5, make_state(5), POSITION)
        checkpoints.wait()
        checkpoints.save(9, make_state(9), POSITION)
        checkpoints.wait()
    # A process that is killed while writing leaves the folder with this name.
    (tmp_path / "9").rename(tmp_path / "9.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 5
        assert_equal(checkpoints.restore(5, make_state(6)), make_state(5))


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 4}, "config.seed: 3 then, 4 now"),
        ({"batch_size": 16}, "config.batch_size: 8 then, 16 now"),
        ({"fingerprint": "abd"}, "classes or images"),
        ({"dataset": "coco"}, "config.dataset.name"),
    ],
)
def test_another_stream_of_examples_is_refused(change, named, tmp_path):
    now = dataclasses.replace(POSITION, next_example=0, **change)
    with pytest.raises(ValueError, match=named):
        POSITION.check_same_stream(now, folder=tmp_path)
    same = dataclasses.replace(POSITION, next_example=0)
    POSITION.check_same_stream(same, folder=tmp_path)


def test_position_is_readable_json(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(5, make_state(5), POSITION)
    (file,) = (tmp_path / "5" / "position").rglob("metadata")
    assert json.loads(file.read_text())["next_example"] == 24


def test_keep_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep = 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="keep_best = -1"):
        Checkpoints(tmp_path, keep=1, keep_best=-1)


@contextlib.contextmanager
def disk_of(size):
    """Limits the size of files, which unlike a full disk stops the superuser too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_while_saving_is_told_and_the_one_before_stays(tmp_path):
    big = make_state(9)
    big.params["layer"]["kernel"] = jax.random.normal(jax.random.key(0), (500, 100))
    told = pytest.raises(StorageError, match=f"{tmp_path / '9'} could not be written")
    with told as error, Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(6, make_state(6), POSITION)
        checkpoints.wait()
        with disk_of(20_000):
            checkpoints.save(9, big, POSITION)
            for _ in range(1000):
                checkpoints.check()
                time.sleep(0.01)
    assert f"The last good one is {tmp_path / '6'}. Make room" in str(error.value)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.steps() == [6]
        assert_equal(checkpoints.restore(6, make_state(0)), make_state(6))
        checkpoints.save(9, big, POSITION)
        checkpoints.wait()
        assert_equal(checkpoints.restore(9, big), big)
    assert kept(tmp_path) == [6, 9]
