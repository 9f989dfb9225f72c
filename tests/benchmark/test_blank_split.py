"""Blank photographs run through the pipeline like those of a prepared dataset."""

import pytest

from eomt_jax.benchmark.blank_split import BlankSplit
from eomt_jax.pipeline.loader import eval_batches, train_batches
from eomt_jax.pipeline.samples import Source, TrainOptions


@pytest.mark.parametrize(
    "name, masks, canvas",
    [
        ("coco_panoptic", "id_map", (640, 640)),
        ("coco_instance", "mask_bits", None),
        ("cityscapes_semantic", "id_map", (1024, 2048)),
    ],
)
def test_batches_have_the_shapes_of_the_dataset(name, masks, canvas):
    source = BlankSplit(name, "train")
    assert isinstance(source, Source)
    options = TrainOptions(
        image_size=32,
        scale_range=(1.0, 1.0),
        color_jitter=False,
        max_targets=source.info.max_segments,
    )
    with train_batches(source, global_batch_size=1, options=options, seed=0) as batches:
        targets = next(batches).targets
    assert getattr(targets, masks).shape[:3] == (1, 32, 32)
    assert targets.labels.shape == (1, source.info.max_segments)
    validation = BlankSplit(name, "validation")
    with eval_batches(
        validation, global_batch_size=1, image_size=32, num_examples=1
    ) as batches:
        batch = next(batches)
    if canvas:
        assert batch.targets.id_map.shape == (1, *canvas)
    windows = {"cityscapes_semantic": (2,)}.get(name, ())
    assert batch.image.shape[1:-3] == windows


def test_unknown_data_is_refused():
    with pytest.raises(ValueError, match=r"'mine' is neither prepared nor published"):
        BlankSplit("mine", "train")
    with pytest.raises(ValueError, match="not 'test'"):
        BlankSplit("coco_panoptic", "test")
