import jax
import jax.numpy as jnp
import pytest

from configs import quickstart
from data import shapes
from eomt_jax.evaluation import checkpoint
from eomt_jax.models import variants
from eomt_jax.types import ClassInfo, DatasetInfo
from eomt_jax.weights import native


class DrawnShapes:
    """A prepared split without the files."""

    split = "validation"
    info = DatasetInfo("shapes", shapes.CLASSES, (96, 96), 8, {"validation": 12})

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return shapes.draw_record(self.split, index)

    def image_id(self, index):
        return str(index)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(checkpoint, "open_split", lambda *_: DrawnShapes())
    config = quickstart.get_config()
    config.image_size = 32
    config.eval.batch_size = 8
    return config


@pytest.fixture
def folder(tmp_path):
    model = variants.create_eomt(
        "tiny",
        num_classes=len(shapes.CLASSES),
        num_queries=4,
        image_size=(32, 32),
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_dim=32,
    )
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    tree = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), tree)
    native.save(tmp_path / "model", model, params, dataset_info=DrawnShapes.info)
    return tmp_path / "model"


def test_evaluate_checkpoint_scores_every_image_once(config, folder):
    calls = []
    results = checkpoint.evaluate_checkpoint(
        config, folder, progress=lambda *call: calls.append(call[:2])
    )
    assert calls == [(8, 12), (12, 12)]
    assert (results["step"], results["split"]) == (0, "validation")
    assert results["checkpoint"] == str(folder / "checkpoints" / "0")
    # All queries are equal and unsure, so nothing is predicted and all is missed.
    segments = sum(
        len(record.labels) for record in map(DrawnShapes().__getitem__, range(12))
    )
    assert sum(row["fn"] for row in results["per_class"]) == segments
    assert sum(row["fp"] + row["tp"] for row in results["per_class"]) == 0
    assert results["all"]["pq"] == 0.0


def test_evaluate_checkpoint_first_images_only(config, folder):
    config.eval.num_images = 3
    assert checkpoint.evaluate_checkpoint(config, folder)["num_images"] == 3


def test_evaluate_checkpoint_other_classes_are_refused(config, folder, monkeypatch):
    other = ClassInfo(3, "pentagon", True, (0, 0, 0))
    classes = (*shapes.CLASSES[:2], other, *shapes.CLASSES[3:])
    info = DatasetInfo("pentagons", classes, (96, 96), 8, {"validation": 12})
    monkeypatch.setattr(DrawnShapes, "info", info)
    with pytest.raises(ValueError, match="label 2: triangle, pentagon"):
        checkpoint.evaluate_checkpoint(config, folder)


def test_evaluate_checkpoint_batch_not_divisible_by_devices(config, folder):
    config.eval.batch_size = 12
    with pytest.raises(ValueError, match="config.eval.batch_size = 12"):
        checkpoint.evaluate_checkpoint(config, folder)
