"""Average precision of instance masks, computed by pycocotools.

Every image is matched as soon as it is predicted, by pycocotools' own functions. Its
masks are not kept, only the matches that pycocotools sums up at the end. So the result
is exactly that of pycocotools.

Legend: B batch, N predicted masks, D detections kept, G objects of the ground truth,
K classes, A ranges of object areas, I thresholds of IoU, Hc Wc canvas, W8 bytes for a
row's bits.
"""

import contextlib
import io
from typing import Any, ClassVar

import clu.metrics
import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as mask_codec
from pycocotools.cocoeval import COCOeval

from eomt_jax.evaluation.panoptic_quality import with_attributes
from eomt_jax.pipeline.records import Record
from eomt_jax.pipeline.samples import Source
from eomt_jax.postprocess.instance import InstancePrediction

# clu reads annotations at run time: don't add `from __future__ import annotations`.

# The stubs leave out the attributes that one step of pycocotools passes to the next.
_COCOeval: Any = COCOeval
_codec: Any = mask_codec

_PARAMS = _COCOeval(iouType="segm").params
_NUM_AREAS, _NUM_THRESHOLDS = len(_PARAMS.areaRng), len(_PARAMS.iouThrs)
_NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)

Rle = dict[str, Any]


@flax.struct.dataclass
class MaskAP(clu.metrics.Metric):
    """Metric: AP over IoU thresholds 0.5, 0.55 … 0.95, per class and on average.

    Its arrays are NumPy's. Make a metric for a class table with `with_classes`; `merge`
    joins the matches of different images, in any order.

    Attributes:
      image: number of each detection's image; unique over the split.
      label: class of each detection.
      score: score of each detection.
      matched: whether each detection matches an object, by area range and threshold.
      ignored: whether each detection counts neither as right nor as wrong there, since
        it lies on a crowd or outside of the area range.
      object_image: number of each object's image.
      object_label: class of each object.
      object_ignored: whether each object need not be found, since it is a crowd or
        outside of the area range.
    """

    image: Int[np.ndarray, " D"]
    label: Int[np.ndarray, " D"]
    score: Float[np.ndarray, " D"]
    matched: Bool[np.ndarray, "D A I"]
    ignored: Bool[np.ndarray, "D A I"]
    object_image: Int[np.ndarray, " G"]
    object_label: Int[np.ndarray, " G"]
    object_ignored: Bool[np.ndarray, "G A"]

    is_thing: ClassVar[tuple[bool, ...]] = ()

    @classmethod
    def with_classes(cls, is_thing: Any) -> type["MaskAP"]:
        """Returns the metric for a class table: is_thing per class, in label order."""
        return with_attributes(cls, is_thing=tuple(map(bool, is_thing)))

    @classmethod
    def empty(cls) -> "MaskAP":
        none, areas = np.zeros(0, np.int32), np.zeros((0, _NUM_AREAS), bool)
        thresholds = np.zeros((0, _NUM_AREAS, _NUM_THRESHOLDS), bool)
        score = np.zeros(0, np.float32)
        return cls(none, none, score, thresholds, thresholds, none, none, areas)

    @classmethod
    def from_model_output(
        cls,
        *,
        prediction: InstancePrediction,
        batch_valid: Bool[np.ndarray, " B"],
        example_index: Int[np.ndarray, " B"],
        source: Source,
        **_: Any,
    ) -> "MaskAP":
        """Matches one batch; all arrays are on the host.

        Args:
          prediction: masks on the canvas.
          batch_valid: False for rows that fill up the batch; they add nothing.
          example_index: index of each row's record in `source`.
          source: the split's records, which hold the objects: all segments of an
            instance dataset, the things of a panoptic one.
        """
        metric = cls.empty()
        labels, scores = np.asarray(prediction.labels), np.asarray(prediction.scores)
        mask_bits = np.asarray(prediction.mask_bits)
        for row in np.flatnonzero(batch_valid):
            index = int(example_index[row])
            record = source[index]
            rles = encode_mask_bits(mask_bits[row], record.size)
            detections = [
                {"id": n + 1, "segmentation": rle, "area": float(area)}
                for n, (rle, area) in enumerate(zip(rles, _codec.area(rles)))
            ]
            for detection, score in zip(detections, scores[row]):
                detection["score"] = float(score)
            objects, object_labels = _objects(record, cls.is_thing)
            image = cls._match(index, detections, labels[row], objects, object_labels)
            metric = metric.merge(image)
        return metric

    @classmethod
    def _match(
        cls,
        image: int,
        detections: list[dict[str, Any]],
        labels: np.ndarray,
        objects: list[dict[str, Any]],
        object_labels: np.ndarray,
    ) -> "MaskAP":
        """Matches one image."""
        coco = _COCOeval(iouType="segm")
        for annotations, classes, table in (
            (detections, labels, coco._dts),
            (objects, object_labels, coco._gts),
        ):
            for annotation, label in zip(annotations, classes.tolist()):
                table[image, label].append(annotation)
        metric = cls.empty()
        most = coco.params.maxDets[-1]
        for label in np.unique(np.concatenate([labels, object_labels])).tolist():
            coco.ious[image, label] = coco.computeIoU(image, label)
            found = [
                coco.evaluateImg(image, label, area, most)
                for area in coco.params.areaRng
            ]
            score = np.array(found[0]["dtScores"], np.float32)
            ignored = np.stack([x["gtIgnore"] for x in found], axis=1)
            metric = metric.merge(
                cls(
                    image=np.full(len(score), image, np.int32),
                    label=np.full(len(score), label, np.int32),
                    score=score,
                    matched=np.stack([x["dtMatches"].T > 0 for x in found], axis=1),
                    ignored=np.stack([x["dtIgnore"].T for x in found], axis=1),
                    object_image=np.full(len(ignored), image, np.int32),
                    object_label=np.full(len(ignored), label, np.int32),
                    object_ignored=ignored.astype(bool),
                )
            )
        return metric

    # clu's own metrics narrow both types likewise.
    def merge(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, other: "MaskAP"
    ) -> "MaskAP":
        return jax.tree.map(lambda a, b: np.concatenate([a, b]), self, other)

    def compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> dict[str, Any]:
        """Returns AP and AR in percent.

        Returns:
          all: ap, ap50, ap75, ap_small, ap_medium, ap_large (objects up to 32² pixels,
            up to 96², above), and the average recall with 1, 10, 100 detections an
            image and by size: ar1, ar10, ar100, ar_small, ar_medium, ar_large; NaN
            where there is no such object; num_classes that have objects.
          per_class: {ap, ap50, num_objects}, each [K]; ap and ap50 are NaN for a class
            without objects. num_objects leaves out crowds.
        """
        coco = _COCOeval(iouType="segm")
        num_classes = len(self.is_thing)
        images = np.unique(np.concatenate([self.image, self.object_image]))
        coco.params.imgIds = images.tolist()
        coco.params.catIds = list(range(num_classes))
        coco._paramsEval = coco.params
        coco.evalImgs = self._entries(images)
        with contextlib.redirect_stdout(io.StringIO()):
            coco.accumulate()
            coco.summarize()
        stats = np.where(np.array(coco.stats) < 0, np.nan, 100 * np.array(coco.stats))
        # [I, recall, K, A, numbers of detections]: all areas, most detections.
        precision = coco.eval["precision"][:, :, :, 0, -1]
        has_objects = (precision > -1).any((0, 1))
        real = self.object_label[~self.object_ignored[:, 0]]
        return {
            "all": {
                **dict(zip(_NAMES, stats.tolist())),
                "num_classes": int(has_objects.sum()),
            },
            "per_class": {
                "ap": np.where(has_objects, 100 * precision.mean((0, 1)), np.nan),
                "ap50": np.where(has_objects, 100 * precision[0].mean(0), np.nan),
                "num_objects": np.bincount(real, minlength=num_classes),
            },
        }

    def _entries(self, images: np.ndarray) -> list[dict[str, Any] | None]:
        """Returns pycocotools' matches by class, area range and image."""
        keys, object_keys = (
            label.astype(np.int64) * len(images) + np.searchsorted(images, image)
            for label, image in (
                (self.label, self.image),
                (self.object_label, self.object_image),
            )
        )
        order, object_order = (
            np.argsort(k, kind="stable") for k in (keys, object_keys)
        )
        present = np.unique(np.concatenate([keys, object_keys]))
        bounds = [
            zip(
                np.searchsorted(ordered, present, side="left"),
                np.searchsorted(ordered, present, side="right"),
            )
            for ordered in (keys[order], object_keys[object_order])
        ]
        entries: list[dict[str, Any] | None] = [None] * (
            len(self.is_thing) * _NUM_AREAS * len(images)
        )
        for key, (first, last), (object_first, object_last) in zip(present, *bounds):
            label, image = divmod(int(key), len(images))
            rows = order[first:last]
            object_rows = object_order[object_first:object_last]
            for area in range(_NUM_AREAS):
                entries[(label * _NUM_AREAS + area) * len(images) + image] = {
                    "dtScores": self.score[rows],
                    "dtMatches": self.matched[rows, area].T,
                    "dtIgnore": self.ignored[rows, area].T,
                    "gtIgnore": self.object_ignored[object_rows, area],
                }
        return entries


def encode_mask_bits(
    mask_bits: UInt8[np.ndarray, "N Hc W8"], size: tuple[int, int]
) -> list[Rle]:
    """Encodes masks that are packed along their rows as COCO's run lengths.

    Args:
      mask_bits: bit x % 8 of byte x // 8 is pixel x of a row.
      size: (height, width) of the photograph, in the canvas' top left.
    """
    height, width = size
    # Masks are encoded one by one, so that a mask's bytes stay in the cache.
    return [
        _codec.encode(
            np.asfortranarray(
                np.unpackbits(bits[:height], axis=1, count=width, bitorder="little")
            )
        )
        for bits in mask_bits
    ]


def _objects(
    record: Record, is_thing: tuple[bool, ...]
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Returns a record's instances as pycocotools' annotations, and their labels."""
    labels, crowd = record.labels, record.is_crowd
    areas: Any = record.areas
    if record.rles is not None:
        rles = [{"size": list(record.size), "counts": rle} for rle in record.rles]
    else:
        things = np.array(is_thing, bool)[labels]
        labels, crowd = labels[things], crowd[things]
        masks = record.masks()[..., things]
        rles = _codec.encode(np.asfortranarray(masks, np.uint8))
        areas = masks.sum((0, 1))
    annotations = [
        # Numbers begin with 1, since 0 means "no match" in pycocotools.
        {
            "id": t + 1,
            "segmentation": rle,
            "iscrowd": int(crowd[t]),
            "ignore": int(crowd[t]),
            "area": float(areas[t]),
        }
        for t, rle in enumerate(rles)
    ]
    return annotations, labels
