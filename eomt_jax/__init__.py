"""EoMT, the encoder-only mask transformer for image segmentation, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eomt_jax.predict.segmenter import Segmenter
    from eomt_jax.weights.load import load, load_backbone

__all__ = ["Segmenter", "load", "load_backbone"]

_HOMES = {
    "Segmenter": "eomt_jax.predict.segmenter",
    "load": "eomt_jax.weights.load",
    "load_backbone": "eomt_jax.weights.load",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a worker process that reads images must not import JAX.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
