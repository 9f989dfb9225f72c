"""Tests of segmenters that are made from a checkpoint."""

import functools
import json

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import eomt_jax
from eomt_jax.parallel import compilation_cache as settings
from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.weights.native import model_folder
from tests.predict.channel_network import INFO, SIZE
from tests.predict.test_segmenter import photograph, random_eomt


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model"
    model_folder.save(path, *random_eomt(), dataset_info=INFO)
    return path


def test_from_checkpoint_knows_its_classes(checkpoint):
    found = eomt_jax.Segmenter.from_checkpoint(checkpoint, task="semantic")
    assert found.info == INFO
    assert found(photograph((24, 40))).size == (24, 40)
    assert found.network.image_size == SIZE
    larger = Segmenter.from_checkpoint(checkpoint, image_size=64)
    assert larger.network.image_size == 64


def test_from_checkpoint_without_classes(tmp_path):
    path = tmp_path / "model"
    model_folder.save(path, *random_eomt())
    with pytest.warns(UserWarning, match="4 classes"):
        found = Segmenter.from_checkpoint(path)
    assert [c.name for c in found.info.classes][:2] == ["class_0", "class_1"]
    rows = [{"id": i, "name": name} for i, name in enumerate("abcd")]
    (tmp_path / "names.json").write_text(json.dumps(rows))
    named = Segmenter.from_checkpoint(path, dataset_info=tmp_path / "names.json")
    assert [c.name for c in named.info.classes] == list("abcd")
    with pytest.raises(ValueError, match="133 classes"):
        Segmenter.from_checkpoint(path, dataset_info="coco_panoptic")


@pytest.fixture
def cache(tmp_path):
    """Returns a folder of compiled programs; after the test none are kept again."""
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    compilation_cache.reset_cache()
    yield tmp_path / "compiled"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    compilation_cache.reset_cache()


def test_from_checkpoint_keeps_compiled_programs(checkpoint, cache):
    image = photograph((24, 40))
    misses = []
    listen = functools.partial(_append_misses, misses)
    jax.monitoring.register_event_listener(listen)
    try:
        for _ in range(2):
            jax.clear_caches()
            Segmenter.from_checkpoint(checkpoint, compilation_cache=cache)(image)
            misses.append("end of process")
    finally:
        jax.monitoring.unregister_event_listener(listen)
    assert any(cache.iterdir())
    first, second = misses.index("end of process"), len(misses) - 1
    assert first > 0
    assert second == first + 1, "the second one compiles nothing"


def test_from_checkpoint_keeps_programs_where_the_commands_do(
    checkpoint, cache, monkeypatch, tmp_path
):
    monkeypatch.setattr(settings, "DEFAULT_FOLDER", f"{tmp_path}/default")

    def folder():
        return jax.config.jax_compilation_cache_dir

    Segmenter.from_checkpoint(checkpoint)
    assert folder() == f"{tmp_path}/default"
    jax.config.update("jax_compilation_cache_dir", f"{tmp_path}/mine")
    Segmenter.from_checkpoint(checkpoint)
    assert folder() == f"{tmp_path}/mine"
    (tmp_path / "file").touch()
    monkeypatch.setattr(settings, "DEFAULT_FOLDER", f"{tmp_path}/file/below")
    jax.config.update("jax_compilation_cache_dir", None)
    Segmenter.from_checkpoint(checkpoint)
    assert folder() is None


def _append_misses(misses, event, **_):
    if event == "/jax/compilation_cache/cache_misses":
        misses.append(event)
