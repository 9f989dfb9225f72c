import json

import jax
import numpy as np
import pytest

from eomt_jax.predict import export
from eomt_jax.predict.exported_network import open_export
from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import INFO, SIZE, BrightestChannel, channel_params
from tests.predict.test_export import some_images


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "exported"
    export.save_export(folder, BrightestChannel(), channel_params(), dataset_info=INFO)
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """Returns a copy whose files a test may damage."""
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_exported_network_has_the_models_sizes_and_logits(exported):
    network, weights, info = open_export(exported)
    assert info == INFO
    assert (network.num_classes, network.num_queries) == (4, 3)
    assert network.image_size == (SIZE, SIZE)
    images = some_images(2, (SIZE, SIZE))
    found = jax.jit(network.apply)({"params": weights}, images)
    wanted = BrightestChannel().apply({"params": channel_params()}, images)
    for name in ("mask_logits", "class_logits"):
        np.testing.assert_allclose(
            getattr(found, name)[-1], getattr(wanted, name)[-1], rtol=0, atol=1e-4
        )


def test_segmenter_runs_an_exported_program(exported):
    segmenter = Segmenter.from_export(exported, compilation_cache="")
    image = np.zeros((32, 24, 3), np.uint8)
    image[:, :8, 0], image[:, 8:, 1] = 255, 255
    found = [(s.class_name, s.area) for s in segmenter(image).segments]
    # Red is a thing of class 0, green is stuff of class 3.
    assert found == [("class 0", 256), ("class 3", 512)]


def test_export_without_classes_is_refused(copy):
    path = copy / export.INFO_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": None}))
    with pytest.raises(ValueError, match="what its 4 classes are: export it again"):
        Segmenter.from_export(copy, compilation_cache="")


@pytest.mark.parametrize(
    "name, content, message",
    [
        (export.PROGRAM_FILE, None, "does not exist; eomt-export CHECKPOINT OUT"),
        (export.PROGRAM_FILE, b"abc", "can't be read"),
        (export.WEIGHTS_FILE, b"abc", "can't be read"),
        (export.INFO_FILE, b"[]", "wanted an object"),
        (export.INFO_FILE, b'{"dataset": {"name": 3}}', "classes = None"),
    ],
)
def test_damaged_export_is_named(name, content, message, copy):
    path = copy / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        open_export(copy)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 2}, "takes 2 images a call: export it again without --batch"),
        ({"platforms": ["tpu", "cuda"]}, "runs on tpu, cuda and this is a cpu"),
    ],
)
def test_program_for_something_else_is_refused(options, message, copy):
    program = export.export_network(BrightestChannel(), **options)
    (copy / export.PROGRAM_FILE).write_bytes(program.serialize())
    with pytest.raises(ValueError, match=message):
        open_export(copy)
