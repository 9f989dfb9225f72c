import io

import numpy as np
import pytest
from PIL import Image

from eomt_jax.pictures import comparison
from eomt_jax.pipeline.records import Record
from eomt_jax.postprocess.panoptic import PanopticPrediction
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import Batch, ClassInfo, DatasetInfo, Targets

INFO = DatasetInfo(
    name="fake",
    classes=(
        ClassInfo(1, "cat", True, (220, 20, 60)),
        ClassInfo(2, "grass", False, (60, 200, 60)),
    ),
    max_image_size=(24, 32),
    max_segments=3,
    num_examples={},
)
LABELS = np.array([0, 0, 1], np.int32)


class Source:
    """A split of three photographs of 24 × 32; all values of number i are 100 + i."""

    info, split = INFO, "validation"

    def __len__(self):
        return 3

    def image_id(self, index):
        return str(index)

    def __getitem__(self, index):
        encoded = io.BytesIO()
        Image.new("RGB", (32, 24), (100 + index,) * 3).save(encoded, format="PNG")
        return Record(
            image_bytes=encoded.getvalue(),
            labels=LABELS,
            is_crowd=np.zeros(3, bool),
            image_id=self.image_id(index),
            height=24,
            width=32,
            segment_map=id_map().astype(np.uint16),
        )


def id_map():
    id_map = np.full((24, 32), 3)
    id_map[8:20, 3:11], id_map[8:20, 15:23] = 1, 2
    return id_map


@pytest.fixture
def batch():
    """Returns a batch of photographs 2 and 1, and a row that fills up."""
    padded = np.zeros((3, 3), bool)
    return Batch(
        image=np.zeros((3, 64, 64, 3), np.uint8),
        targets=Targets(
            labels=np.zeros((3, 3), np.int32), valid=padded, is_crowd=padded
        ),
        valid=np.array([True, True, False]),
        example_index=np.array([2, 1, -1], np.int32),
        content_size=np.full((3, 2), 64, np.int32),
        original_size=np.full((3, 2), 64, np.int32),
    )


def panoptic_prediction():
    canvas = np.zeros((3, 40, 40), np.int32)
    canvas[:, :24, :32] = id_map()
    return PanopticPrediction(
        id_map=canvas,
        labels=np.tile(LABELS, (3, 1)),
        scores=np.ones((3, 3), np.float32),
        valid=np.ones((3, 3), bool),
    )


def test_evaluation_pictures_of_a_batch(batch):
    pictures = comparison.evaluation_pictures(
        batch, panoptic_prediction(), Source(), task="panoptic", max_pictures=5
    )
    assert [int(picture.image.max()) for picture in pictures] == [102, 101]
    for picture in pictures:
        predicted, target = picture.segmentations
        np.testing.assert_array_equal(predicted.id_map, id_map())
        np.testing.assert_array_equal(target.id_map, id_map())


def test_evaluation_pictures_at_most_so_many(batch):
    pictures = comparison.evaluation_pictures(
        batch, panoptic_prediction(), Source(), task="panoptic", max_pictures=1
    )
    assert len(pictures) == 1


def test_evaluation_pictures_semantic_target_is_by_class(batch):
    label_map = np.full((3, 40, 40), -1)
    label_map[:, :24, :32] = 1
    prediction = SemanticPrediction(label_map=label_map)
    pictures = comparison.evaluation_pictures(
        batch, prediction, Source(), task="semantic", max_pictures=1
    )
    predicted, target = pictures[0].segmentations
    np.testing.assert_array_equal(predicted.labels, [1])
    np.testing.assert_array_equal(predicted.id_map, np.ones((24, 32)))
    np.testing.assert_array_equal(target.labels, [0, 1])
    np.testing.assert_array_equal(target.id_map, np.where(id_map() == 3, 2, 1))


def test_training_pictures_show_what_the_network_sees(batch):
    image = np.arange(3)[:, None, None, None] + np.zeros((3, 24, 32, 3), np.uint8)
    targets = Targets(
        labels=np.tile(LABELS, (3, 1)),
        valid=np.ones((3, 3), bool),
        is_crowd=np.zeros((3, 3), bool),
        id_map=np.tile(id_map().astype(np.uint8), (3, 1, 1)),
    )
    batch = batch.replace(image=image.astype(np.uint8), targets=targets)
    pictures = comparison.training_pictures(batch, max_pictures=2)
    assert [int(picture.image.max()) for picture in pictures] == [0, 1]
    np.testing.assert_array_equal(pictures[1].segmentations[0].id_map, id_map())


def test_draw_comparison_equal_panels_look_alike(batch):
    pictures = comparison.evaluation_pictures(
        batch, panoptic_prediction(), Source(), task="panoptic", max_pictures=2
    )
    sheet = comparison.draw_comparison(pictures, INFO, panel=160)
    height, width = 120, 160
    assert sheet.shape[0] > 2 * height and sheet.shape[1] > 3 * width
    # Prediction and target are equal; the photograph beside them has nothing drawn on
    # it.
    left, middle, right = (
        sheet[30:130, start : start + width]
        for start in (8, 16 + width, 24 + 2 * width)
    )
    np.testing.assert_array_equal(left, middle)
    assert (right == 102).all() and np.ptp(left) > 100
    assert (sheet[:4] == 255).all()
