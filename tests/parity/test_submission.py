"""The tools with which benchmarks score submissions read ours."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eomt_jax.evaluation.mask_ap import MaskAP
from eomt_jax.evaluation.panoptic_quality import PanopticQuality
from eomt_jax.evaluation.submission import Submission
from eomt_jax.pipeline.records import Record
from eomt_jax.postprocess.instance import InstancePrediction
from eomt_jax.postprocess.panoptic import PanopticPrediction
from eomt_jax.types import Batch, ClassInfo, DatasetInfo, Targets

pytestmark = pytest.mark.parity

NUM_IMAGES, NUM_CLASSES, SEGMENTS = 24, 4, 6
CANVAS = (40, 56)
IDS = (3, 17, 90, 200)
INFO = DatasetInfo(
    name="fake",
    classes=tuple(
        ClassInfo(number, str(number), k < 2, (0, 0, 0)) for k, number in enumerate(IDS)
    ),
    max_image_size=CANVAS,
    max_segments=SEGMENTS,
    num_examples={},
)


class Source(list):
    """Records of photographs with the names 000000001000, 000000001001, …"""

    info, split = INFO, "validation"

    def image_id(self, index):
        return f"{1000 + index:012d}"


def random_map(rng, size):
    """Returns overlapping rectangles, with some pixels outside of all."""
    id_map = np.zeros(CANVAS, np.int32)
    for segment in 1 + rng.permutation(SEGMENTS):
        top, left = (rng.integers(0, side - 4) for side in size)
        height, width = (rng.integers(4, side) for side in size)
        id_map[top : top + height, left : left + width] = segment
    id_map[size[0] :], id_map[:, size[1] :] = 0, 0
    return id_map


def random_images():
    """Returns targets, predictions that are more or less like them, and the batch."""
    rng = np.random.default_rng(0)
    sizes = rng.integers((20, 30), np.add(CANVAS, 1), (NUM_IMAGES, 2))
    targets = np.stack([random_map(rng, size) for size in sizes])
    predictions = targets.copy()
    for prediction, (height, width) in zip(predictions, sizes):
        moved = np.roll(prediction[:height, :width], rng.integers(-2, 3), 1)
        prediction[:height, :width] = moved
    predictions[::4] = predictions[::4] % 5  # segments lost and joined
    shape = (NUM_IMAGES, SEGMENTS)
    labels = rng.integers(0, NUM_CLASSES, shape).astype(np.int32)
    guessed = np.where(rng.random(shape) < 0.8, labels, labels[::-1])
    crowd = (rng.random(shape) < 0.2) & INFO.is_thing[labels]
    ids = np.arange(1, SEGMENTS + 1)
    batch = Batch(
        image=np.zeros((NUM_IMAGES, 4, 4, 3), np.uint8),
        targets=Targets(
            labels=labels,
            valid=(targets[..., None] == ids).any((1, 2)),
            is_crowd=crowd,
            id_map=targets.astype(np.uint8),
        ),
        valid=np.ones(NUM_IMAGES, bool),
        example_index=np.arange(NUM_IMAGES, dtype=np.int32),
        content_size=np.full((NUM_IMAGES, 2), 4, np.int32),
        original_size=sizes.astype(np.int32),
    )
    scores = rng.integers(1, 9, shape).astype(np.float32) / 8
    return batch, predictions, guessed, scores


def make_records(batch):
    records = Source()
    for i, (height, width) in enumerate(batch.original_size.tolist()):
        masks = [
            mask_codec.encode(np.asfortranarray(mask[:height, :width], np.uint8))
            for mask in batch.targets.id_map[i]
            == np.arange(1, SEGMENTS + 1)[:, None, None]
        ]
        records.append(
            Record(
                image_bytes=b"",
                labels=batch.targets.labels[i],
                is_crowd=batch.targets.is_crowd[i],
                image_id=records.image_id(i),
                height=height,
                width=width,
                rles=tuple(mask["counts"] for mask in masks),
                areas=np.array([float(mask_codec.area(mask)) for mask in masks]),
            )
        )
    return records


def test_panoptic_files_read_by_panopticapi_give_our_pq(tmp_path):
    evaluation = pytest.importorskip("panopticapi.evaluation")
    batch, id_map, labels, _ = random_images()
    prediction = PanopticPrediction(
        id_map=id_map,
        labels=labels,
        scores=np.ones(labels.shape, np.float32),
        valid=(id_map[..., None] == np.arange(1, SEGMENTS + 1)).any((1, 2)),
    )
    source = make_records(batch)
    with Submission(tmp_path / "ours", source, task="panoptic") as write:
        write(batch, prediction)
    handed_in = json.loads((tmp_path / "ours" / "panoptic.json").read_text())

    wanted = []
    for i, (height, width) in enumerate(batch.original_size):
        target = batch.targets.id_map[i, :height, :width]
        rgb = np.stack([target, 0 * target, 0 * target], -1)
        Image.fromarray(rgb).save(tmp_path / f"{i}.png")
        segments = [
            {
                "id": t + 1,
                "category_id": IDS[batch.targets.labels[i, t]],
                "iscrowd": int(batch.targets.is_crowd[i, t]),
                "area": int((target == t + 1).sum()),
            }
            for t in np.flatnonzero(batch.targets.valid[i]).tolist()
        ]
        name = {"image_id": 1000 + i, "file_name": f"{i}.png"}
        wanted.append({**name, "segments_info": segments})
    by_image = {row["image_id"]: row for row in handed_in["annotations"]}
    categories = {c.id: {"id": c.id, "isthing": int(c.is_thing)} for c in INFO.classes}
    official = evaluation.pq_compute_single_core(
        0,
        [(row, by_image[row["image_id"]]) for row in wanted],
        str(tmp_path),
        str(tmp_path / "ours" / "panoptic"),
        categories,
    )
    metric = PanopticQuality.with_classes(INFO.is_thing).from_model_output(
        prediction=prediction,
        targets=batch.targets,
        batch_valid=batch.valid,
        original_size=batch.original_size,
    )
    ours = metric.to_host().compute()
    for group, flag in (("all", None), ("things", True), ("stuff", False)):
        expected, _ = official.pq_average(categories, isthing=flag)
        assert 0.2 < expected["pq"] < 0.9
        for name in ("pq", "sq", "rq"):
            assert ours[group][name] == pytest.approx(100 * expected[name], abs=1e-4)


def test_instance_files_read_by_pycocotools_give_our_ap(tmp_path):
    batch, id_map, labels, scores = random_images()
    masks = id_map[:, None] == np.arange(1, SEGMENTS + 1)[:, None, None]
    masks[:, 0] |= masks[:, 1]  # masks may overlap
    prediction = InstancePrediction(
        mask_bits=np.packbits(masks, axis=-1, bitorder="little"),
        labels=labels,
        scores=np.where(masks.any((2, 3)), scores, np.float32(0)),
    )
    source = make_records(batch)
    with Submission(tmp_path / "ours", source, task="instance") as write:
        write(batch, prediction)

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [
            {"id": 1000 + i, "height": record.height, "width": record.width}
            for i, record in enumerate(source)
        ],
        "annotations": [
            {
                "id": 1 + SEGMENTS * i + t,
                "image_id": 1000 + i,
                "category_id": IDS[record.labels[t]],
                "segmentation": {"size": list(record.size), "counts": counts},
                "area": float(record.areas[t]),
                "iscrowd": int(record.is_crowd[t]),
            }
            for i, record in enumerate(source)
            for t, counts in enumerate(record.rles)
        ],
        "categories": [{"id": number} for number in IDS],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(str(tmp_path / "ours" / "instances.json"))
        coco = COCOeval(truth, results, "segm")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    ours = MaskAP.with_classes(INFO.is_thing).from_model_output(
        prediction=prediction,
        batch_valid=batch.valid,
        example_index=batch.example_index,
        source=source,
    )
    computed = ours.compute()["all"]
    assert 0.1 < coco.stats[0] < 0.9
    for position, name in enumerate(("ap", "ap50", "ap75", "ap_small")):
        assert computed[name] == pytest.approx(100 * coco.stats[position], abs=1e-9)
