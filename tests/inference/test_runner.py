import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from eomt_jax.inference.runner import Runner
from eomt_jax.parallel.batch import place_batch
from eomt_jax.parallel.mesh import create_mesh, replicated
from eomt_jax.types import Batch, ClassInfo, DatasetInfo, Outputs, Targets

SIZE, CANVAS, BATCH = 32, (40, 48), 8
INFO = DatasetInfo(
    name="fake",
    classes=tuple(
        ClassInfo(k + 1, f"class {k}", k < 2, (40 * k, 90, 200)) for k in range(4)
    ),
    max_image_size=CANVAS,
    max_segments=3,
    num_examples={"validation": BATCH},
)


class BrightestChannel(nn.Module):
    """One query for each colour channel: its mask is where that channel is bright."""

    @nn.compact
    def __call__(self, images):
        batch, height, width, _ = images.shape
        shape = (batch, height // 4, 4, width // 4, 4, 3)
        pooled = images.reshape(shape).astype(jnp.float32).mean((2, 4))
        logits = self.param("queries", nn.initializers.zeros, (3, INFO.num_classes + 1))
        return Outputs(
            mask_logits=(jnp.moveaxis(pooled, -1, 1) - 127.0,),
            class_logits=(jnp.broadcast_to(logits, (batch, *logits.shape)),),
        )


@pytest.fixture
def model():
    return BrightestChannel()


@pytest.fixture
def params():
    classes = np.zeros((3, INFO.num_classes + 1), np.float32)
    classes[[0, 1, 2], [0, 3, 1]] = 10.0
    return {"queries": classes}


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


def test_runner_eight_devices_equal_one(model, params, batch):
    alone = Runner(model, INFO)(params, batch)
    mesh = create_mesh(data=2, fsdp=2, tensor=2)
    placed = place_batch(batch, mesh)
    runner = Runner(model, INFO, mesh=mesh)
    shared = runner(jax.device_put(params, replicated(mesh)), placed)
    assert shared.id_map.sharding.shard_shape(shared.id_map.shape)[0] == BATCH // 4
    for found, expected in zip(jax.tree.leaves(shared), jax.tree.leaves(alone)):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert alone.valid.sum() > BATCH, "there must be something to compare"
    assert alone.id_map.shape == (BATCH, *CANVAS)


def test_runner_segments_are_those_in_the_id_map(model, params, batch):
    found = jax.device_get(Runner(model, INFO)(params, batch))
    for i in range(BATCH):
        height, width = batch.original_size[i]
        present = set(np.unique(found.id_map[i])) - {0}
        assert present == set(np.flatnonzero(found.valid[i]) + 1)
        assert not found.id_map[i, height:].any()
        assert not found.id_map[i, :, width:].any()


def test_runner_unknown_task_is_refused(model):
    with pytest.raises(ValueError, match="'depth'"):
        Runner(model, INFO, task="depth")
