import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import quickstart
from eomt_jax.datasets import shapes
from eomt_jax.evaluation import scoring
from eomt_jax.models import variants
from eomt_jax.parallel.mesh import create_mesh
from eomt_jax.types import ClassInfo, DatasetInfo
from eomt_jax.weights.load import load
from eomt_jax.weights.native import model_folder

PICTURES = ("_confusion.png", "_reliability.png", "_pictures")


class DrawnShapes:
    """A prepared split that needs no files."""

    split = "validation"
    info = DatasetInfo("shapes", shapes.CLASSES, (96, 96), 8, {"validation": 12})

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return shapes.draw_record(self.split, index)

    def image_id(self, index):
        return f"folder/{index}" if index == 1 else str(index)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(scoring, "open_split", lambda *_: DrawnShapes())
    config = quickstart.get_config()
    config.compilation_cache = ""
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
    model_folder.save(tmp_path / "model", model, params, dataset_info=DrawnShapes.info)
    return tmp_path / "model"


def test_evaluate_checkpoint_scores_every_image_once(config, folder):
    calls = []
    results = scoring.evaluate_checkpoint(
        config, folder, progress=lambda *call: calls.append(call[:2])
    )
    assert calls == [(8, 12), (12, 12)]
    assert (results["step"], results["split"]) == (0, "validation")
    assert results["checkpoint"] == str(folder / "checkpoints" / "0")
    # All queries are equal and unsure, so nothing is predicted and all targets missed.
    segments = sum(
        len(record.labels) for record in map(DrawnShapes().__getitem__, range(12))
    )
    assert sum(row["fn"] for row in results["per_class"]) == segments
    assert sum(row["fp"] + row["tp"] for row in results["per_class"]) == 0
    assert results["all"]["pq"] == 0.0
    out = folder / "evaluation_shapes_validation_0.json"
    assert results["file"] == str(out)
    assert json.loads(out.read_text()) == results


def test_evaluate_checkpoint_skips_padding_on_request(config, folder, monkeypatch):
    predicted = []

    def predict(runner, params, batch):
        predicted.append(batch.example_index.tolist())
        return call(runner, params, batch)

    call = scoring.Runner.__call__
    monkeypatch.setattr(scoring.Runner, "__call__", predict)
    monkeypatch.setattr(
        scoring, "create_mesh", lambda _: create_mesh(devices=jax.devices()[:1])
    )
    expected = scoring.evaluate_checkpoint(config, folder)
    assert [len(rows) for rows in predicted] == [8, 8]
    predicted.clear()
    config.eval.skip_padding = True
    found = scoring.evaluate_checkpoint(config, folder)
    assert predicted == [[index] for index in range(12)]
    # Drawn squares have no padding.
    assert found["per_class"] == expected["per_class"]


def test_evaluate_checkpoint_takes_a_file_whose_results_go_elsewhere(
    config, folder, tmp_path
):
    config.eval.num_images = 3
    model, params = load(folder)
    file = tmp_path / "model.safetensors"
    model_folder.save_file(file, model, params)
    with pytest.raises(ValueError, match="no folder .* give --out"):
        scoring.evaluate_checkpoint(config, file)
    out = tmp_path / "results.json"
    results = scoring.evaluate_checkpoint(config, file, out=out)
    assert (results["step"], results["checkpoint"]) == (0, str(file))
    assert results["file"] == str(out)
    assert json.loads(out.read_text()) == results
    for there, message in (
        (
            json.dumps({**results, "dataset": "mine"}),
            "of 'validation' of dataset 'mine'",
        ),
        ("[]", "holds no evaluation"),
    ):
        out.write_text(there)
        with pytest.raises(ValueError, match=message):
            scoring.evaluate_checkpoint(config, file, out=out)
        assert out.read_text() == there


def test_evaluate_checkpoint_another_number_of_classes_is_refused(
    config, folder, tmp_path, monkeypatch
):
    model, params = load(folder)
    model_folder.save(tmp_path / "nameless", model, params)
    info = dataclasses.replace(DrawnShapes.info, classes=shapes.CLASSES[:2])
    monkeypatch.setattr(DrawnShapes, "info", info)
    with pytest.raises(ValueError, match="predicts 6 classes and shapes has 2"):
        scoring.evaluate_checkpoint(config, tmp_path / "nameless")


def test_evaluate_checkpoint_other_task_with_its_files(config, folder, tmp_path):
    config.eval.num_images = 9
    results = scoring.evaluate_checkpoint(
        config,
        folder,
        task="semantic",
        num_pictures=2,
        predictions=tmp_path / "predictions",
        confidence="normalized",
    )
    # All queries are equal and unsure, so class 0 is predicted everywhere.
    assert results["task"] == "semantic" and results["num_images"] == 9
    assert 0 < results["per_class"][0]["iou"] < 100
    assert not np.array(results["confusion"])[:, 1:].any()
    files = {path.name for path in folder.iterdir() if "evaluation" in path.name}
    name = "evaluation_shapes_validation_0_semantic"
    assert files == {f"{name}{x}" for x in (".json", *PICTURES)}
    pictures = folder / f"{name}_pictures"
    names = {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")}
    assert names == {"0.png", "folder/1.png"}
    with Image.open(folder / f"{name}_pictures/0.png") as picture:
        assert picture.width > 800
    assert len(list((tmp_path / "predictions").rglob("*.png"))) == 2 * 9
    # Each class has the same share of the scores, and all pixels have one confidence.
    accuracy = results["all"]["pixel_accuracy"]
    share = 100 * (65_536 // len(shapes.CLASSES) + 0.5) / 65_536
    assert results["confidence"] == {
        "ece": pytest.approx(abs(accuracy - share)),
        "auroc": 50,
        "fpr95": 100,
        "aupr_success": pytest.approx(accuracy),
        "aupr_error": pytest.approx(100 - accuracy),
    }
    (levels,) = np.unique(Image.open(tmp_path / "predictions" / "confidence" / "0.png"))
    assert levels == 65_536 // len(shapes.CLASSES)
    bins = results["reliability"]
    (used,) = np.flatnonzero(bins["pixels"])
    assert used == 15 // len(shapes.CLASSES)
    assert bins["right"][used] / bins["pixels"][used] == accuracy / 100


def test_evaluate_checkpoint_last_class_may_be_invalid_pixels(
    config, folder, monkeypatch
):
    """The network has 6 classes, and the last of them is now called the seventh."""

    def draw(self, index):
        record = shapes.draw_record(self.split, index)
        invalid = len(shapes.CLASSES)
        labels = np.where(record.labels == invalid - 1, invalid, record.labels)
        return dataclasses.replace(record, labels=labels)

    classes = (*shapes.CLASSES, ClassInfo(7, "invalid", False, (0, 0, 0)))
    info = dataclasses.replace(DrawnShapes.info, classes=classes)
    monkeypatch.setattr(DrawnShapes, "info", info)
    monkeypatch.setattr(DrawnShapes, "__getitem__", draw)
    results = scoring.evaluate_checkpoint(
        config, folder, task="semantic", confidence="normalized"
    )
    labels = [
        record.labels[record.segment_map[record.segment_map > 0] - 1]
        for record in map(DrawnShapes().__getitem__, range(12))
    ]
    counts = np.bincount(np.concatenate(labels), minlength=7)
    assert [row["pixels"] for row in results["per_class"]] == counts[:6].tolist()
    # All pixels have one confidence.
    measured = results["confidence"]
    assert (measured["auroc_invalid"], measured["fpr95_invalid"]) == (50, 100)
    share = 100 * counts[6] / counts.sum()
    assert measured["auprc_invalid"] == pytest.approx(share)
    with pytest.raises(ValueError, match="has 7 other ones"):
        scoring.evaluate_checkpoint(config, folder)


def test_evaluate_checkpoint_predictions_are_not_overwritten(config, folder, tmp_path):
    config.eval.task = "instance"
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "mine.txt").touch()
    with pytest.raises(ValueError, match="predictions holds something already"):
        scoring.evaluate_checkpoint(
            config, folder, predictions=tmp_path / "predictions"
        )


def test_evaluate_checkpoint_task_that_cannot_be_measured(config, folder, monkeypatch):
    info = dataclasses.replace(DrawnShapes.info, task="semantic")
    monkeypatch.setattr(DrawnShapes, "info", info)
    with pytest.raises(ValueError, match="annotated for semantic segmentation"):
        scoring.evaluate_checkpoint(config, folder, task="panoptic")


def test_evaluate_checkpoint_confidence_of_another_task_is_refused(config, folder):
    with pytest.raises(ValueError, match="which panoptic segmentation doesn't give"):
        scoring.evaluate_checkpoint(config, folder, confidence="normalized")


def test_evaluate_checkpoint_first_images_only(config, folder):
    config.eval.num_images = 3
    assert scoring.evaluate_checkpoint(config, folder)["num_images"] == 3


def test_evaluate_checkpoint_other_classes_are_refused(config, folder, monkeypatch):
    other = ClassInfo(3, "pentagon", True, (0, 0, 0))
    classes = (*shapes.CLASSES[:2], other, *shapes.CLASSES[3:])
    info = DatasetInfo("pentagons", classes, (96, 96), 8, {"validation": 12})
    monkeypatch.setattr(DrawnShapes, "info", info)
    with pytest.raises(ValueError, match="label 2: triangle, pentagon"):
        scoring.evaluate_checkpoint(config, folder)


def test_evaluate_checkpoint_batch_not_divisible_by_devices(config, folder):
    config.eval.batch_size = 12
    with pytest.raises(ValueError, match="config.eval.batch_size = 12"):
        scoring.evaluate_checkpoint(config, folder)
