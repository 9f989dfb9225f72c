"""EoMT, the encoder-only mask transformer for image segmentation, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eomt_jax.evaluation.scoring import evaluate_checkpoint
    from eomt_jax.own_data.evaluate import evaluate
    from eomt_jax.own_data.train import train
    from eomt_jax.predict.segmenter import Segmenter
    from eomt_jax.training.loop import train as train_config
    from eomt_jax.training.options import default_config
    from eomt_jax.weights.load import load, load_backbone

__all__ = [
    "Segmenter",
    "default_config",
    "evaluate",
    "evaluate_checkpoint",
    "load",
    "load_backbone",
    "train",
    "train_config",
]

_HOMES = {
    "Segmenter": ("eomt_jax.predict.segmenter", "Segmenter"),
    "default_config": ("eomt_jax.training.options", "default_config"),
    "evaluate": ("eomt_jax.own_data.evaluate", "evaluate"),
    "evaluate_checkpoint": ("eomt_jax.evaluation.scoring", "evaluate_checkpoint"),
    "load": ("eomt_jax.weights.load", "load"),
    "load_backbone": ("eomt_jax.weights.load", "load_backbone"),
    "train": ("eomt_jax.own_data.train", "train"),
    "train_config": ("eomt_jax.training.loop", "train"),
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a worker process that reads images must not import JAX.
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
