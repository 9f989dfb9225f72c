import dataclasses
import functools
import io

import jax
import numpy as np
import pytest
from PIL import Image

from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.pipeline.eval_samples import EvalSampler
from eomt_jax.pipeline.records import Record
from eomt_jax.predict.runner import Runner
from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.task_registry import get_task
from eomt_jax.types import Batch
from tests.predict.channel_network import (
    INFO,
    SIZE,
    BrightestChannel,
    channel_params,
)

SIZES = [(24, 40), (40, 30), (64, 20)]
CONFIDENCE = {True: "normalized", False: "unnormalized"}  # by skip_padding


@functools.cache
def random_eomt():
    vit = ViT(
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_dim=32,
        mlp_type="gelu",
        patch_size=16,
        image_size=(SIZE, SIZE),
        num_register_tokens=0,
        layer_scale_init=1.0,
    )
    model = EoMT(vit=vit, num_classes=4, num_queries=6, num_query_blocks=1)
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes
    )


def photograph(size, seed=0):
    """Returns blocks of red, green and blue, which stay recognisable when resized."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 3, (size[0] // 8 + 1, size[1] // 8 + 1))
    blocks = np.uint8(255) * np.eye(3, dtype=np.uint8)[colors]
    return blocks.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]


@functools.cache
def segmenter(skip_padding=True):
    """Returns a Segmenter that most tests share, since compiling takes long."""
    return Segmenter(
        BrightestChannel(),
        channel_params(),
        INFO,
        batch_size=2,
        skip_padding=skip_padding,
        confidence=CONFIDENCE[skip_padding],
    )


def assert_same(found, expected):
    assert found.size == expected.size
    np.testing.assert_array_equal(found.labels, expected.labels)
    for name in ("id_map", "masks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    if expected.scores is not None:
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert (found.confidence is None) == (expected.confidence is None)
    if expected.confidence is not None:
        np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-5)


class FakeSplit:
    """A split of the photographs, without segments."""

    info = dataclasses.replace(INFO, max_image_size=(64, 64), max_aspect_ratio=3.2)
    split = "validation"

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        encoded = io.BytesIO()
        Image.fromarray(photograph(SIZES[index])).save(encoded, "PNG")
        return Record(
            image_bytes=encoded.getvalue(),
            labels=np.zeros(0, np.int32),
            is_crowd=np.zeros(0, bool),
            image_id=str(index),
            height=SIZES[index][0],
            width=SIZES[index][1],
            segment_map=np.zeros(SIZES[index], np.uint16),
        )

    def image_id(self, index):
        return str(index)


@pytest.mark.parametrize("skip_padding", [True, False])
@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_segmenter_equals_the_runner_on_prepared_records(task, skip_padding):
    source = FakeSplit()
    windows, overlapping = task == "semantic", task == "instance"
    sampler = EvalSampler(source, len(SIZES), SIZE, (64, 64), 1, windows, overlapping)
    rows = [sampler(i) for i in range(len(SIZES))]
    batch = Batch(**jax.tree.map(lambda *x: np.stack(x), *rows))
    runner = Runner(
        BrightestChannel(),
        source.info,
        task=task,
        score_threshold=0.1,
        skip_padding=skip_padding,
        confidence=CONFIDENCE[skip_padding],
    )
    expected = {}
    for part in runner.regroup([batch]):
        prediction = jax.device_get(runner(channel_params(), part))
        for row, index in enumerate(part.example_index.tolist()):
            expected[index] = get_task(task).segmentation(
                prediction, row, SIZES[index], min_score=0.1
            )
    results = segmenter(skip_padding)(
        [photograph(s) for s in SIZES], task=task, threshold=0.1
    )
    for index, result in enumerate(results):
        assert_same(result.segmentation, expected[index].best_first())
    assert sorted(expected) == list(range(len(results)))
    assert max(len(result.segments) for result in results) > 1


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_segmenter_of_several_equals_one_by_one(task):
    photographs = [photograph(size, seed) for seed, size in enumerate(SIZES)]
    together = segmenter()(photographs, task=task, threshold=0.1)
    for image, result in zip(photographs, together, strict=True):
        alone = segmenter()(image, task=task, threshold=0.1)
        np.testing.assert_array_equal(result.image, image)
        assert_same(result.segmentation, alone.segmentation)


def test_segmenter_takes_arrays_paths_and_images(tmp_path):
    image = photograph((24, 40))
    path = tmp_path / "photo.png"
    Image.fromarray(image).save(path)
    results = segmenter()([image, path, str(path), Image.fromarray(image)])
    assert [result.file_name for result in results] == ["", str(path), str(path), ""]
    for result in results:
        assert_same(result.segmentation, results[0].segmentation)


def test_segmenter_finds_what_is_there():
    image = np.zeros((40, 56, 3), np.uint8)
    image[8:32, 8:24, 0] = image[16:, 32:, 1] = 255
    found = segmenter()(image)
    names = {s.class_name: s for s in found.segments}
    assert names.keys() == {"class 0", "class 3"}
    assert names["class 0"].area == pytest.approx(24 * 16, rel=0.15)
    assert names["class 3"].area == pytest.approx(24 * 24, rel=0.15)
    np.testing.assert_allclose(names["class 0"].box, (8, 8, 16, 24), atol=1)
    assert found.task == INFO.task == "panoptic"


def test_segmenter_threshold_without_compiling_again():
    image = photograph((24, 40))
    scores = sorted(s.score for s in segmenter()(image, threshold=0.0).segments)
    assert len(scores) == 3
    before = segmenter().network.compile_seconds
    best = segmenter()(image, threshold=scores[1] + 1e-5).segments
    assert [s.score for s in best] == [pytest.approx(scores[2])]
    assert segmenter()(image, threshold=1.0).segments == ()
    assert segmenter().network.compile_seconds == before


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_segmenter_warmed_up_compiles_no_more(task):
    warm = Segmenter(BrightestChannel(), channel_params(), INFO, batch_size=2)
    warm.warmup([(480, 640), (640, 480), (30, 40)], task=task)
    before = warm.network.compile_seconds
    assert before > 0
    for size in [(640, 470), (75, 100), (500, 365)]:
        warm([np.zeros((*size, 3), np.uint8)] * 3, task=task)
    assert warm.network.compile_seconds == before
    warm(np.zeros((480, 700, 3), np.uint8), task=task)
    assert warm.network.compile_seconds > before


def test_segmenter_damaged_photograph(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no picture")
    images = [photograph((24, 40)), path, photograph((40, 30))]
    with pytest.raises(ValueError, match=r"broken\.jpg is no picture"):
        segmenter()(images)
    problems = []
    results = segmenter().stream(images, on_damaged=lambda *x: problems.append(x))
    assert [result.size for result in results] == [(24, 40), (40, 30)]
    ((image, error),) = problems
    assert image is path
    assert "broken.jpg" in str(error)


def test_segmenter_stream_reads_only_ahead():
    read = []

    def endless():
        while True:
            read.append(photograph((24, 40)))
            yield read[-1]

    results = segmenter().stream(endless())
    for _ in range(3):
        next(results)
    results.close()
    assert 3 <= len(read) <= 12


def test_segmenter_long_thin_photograph():
    strip = photograph((8, 8 * 32))
    assert segmenter()(strip, task="semantic").size == (8, 8 * 32)
    with pytest.raises(ValueError, match=r"8 × 264 pixels takes 33 windows"):
        segmenter()(photograph((8, 8 * 33)), task="semantic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "depth"}, "'depth'"),
        ({"task": "panoptic", "tile": True}, "semantic or the instance task"),
    ],
)
def test_segmenter_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        segmenter()(photograph((24, 40)), **options)


def test_segmenter_instances_of_stuff_are_refused():
    stuff = tuple(dataclasses.replace(c, is_thing=False) for c in INFO.classes)
    info = dataclasses.replace(INFO, classes=stuff)
    other = Segmenter(BrightestChannel(), channel_params(), info)
    with pytest.raises(ValueError, match="none of the classes"):
        other(photograph((24, 40)), task="instance")


def test_segmenter_wrong_model_or_classes():
    model, params = random_eomt()
    with pytest.raises(ValueError, match=r"3 classes and the model predicts 4"):
        Segmenter(model, params, dataclasses.replace(INFO, classes=INFO.classes[:3]))
    with pytest.raises(ValueError, match="at least 1"):
        Segmenter(model, params, INFO, batch_size=0)
    flat = model.clone(vit=model.vit.clone(image_size=(32, 48)))
    with pytest.raises(ValueError, match=r"32 × 48.*image_size=S"):
        Segmenter(flat, params, INFO)
