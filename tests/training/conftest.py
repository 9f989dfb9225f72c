"""Fixtures of a small run: few drawn shapes, a network of two blocks."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from configs import common, quickstart
from eomt_jax.datasets import prepare, shapes
from eomt_jax.models import variants
from eomt_jax.options import from_config
from eomt_jax.training.options import RunOptions


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory):
    """Prepares a small version of the shapes dataset; returns its folder."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "NUM_EXAMPLES", {"train": 10, "validation": 3})
        prepare.prepare("shapes", folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Returns a folder of compiled programs, shared with other processes."""
    yield tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture
def tiny_config(shapes_dir, monkeypatch):
    """Returns a config of six steps that compile in seconds, for one device."""
    monkeypatch.setattr(variants, "VARIANTS", dict(variants.VARIANTS))
    register_micro_variant()
    return make_config(str(shapes_dir))


def register_micro_variant():
    """Adds a network of two blocks to the published ones."""
    variants.VARIANTS["micro"] = variants.Variant(16, 2, 2, 32, 1)


def make_config(data_dir):
    """Returns the quickstart's recipe, made as small as possible."""
    config = quickstart.get_config()
    config.dataset.data_dir = data_dir
    config.dataset.num_threads = 1
    config.compilation_cache = ""
    config.image_size = 32
    config.model.variant = "micro"
    config.model.num_queries = 8
    config.criterion.num_points = 32
    # jax 0.10 caches no program with a callback to the host, like scipy's matcher.
    config.criterion.matcher = "device"
    config.batch_size = 2
    config.total_steps = 6
    config.optimizer.published_steps = 6
    config.optimizer.warmup_head = 1
    config.optimizer.warmup_vit = 1
    config.eval.batch_size = 2
    config.eval.every_steps = 0
    config.logging.every_steps = 1
    config.logging.picture_every_steps = 0
    config.checkpoint.every_steps = 2
    return config


def options(**changes):
    """Returns the base of all recipes with other values, by their dotted names."""
    config = common.get_config()
    config.update_from_flattened_dict(changes)
    return from_config(RunOptions, config)
