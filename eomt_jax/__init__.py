"""EoMT, the encoder-only mask transformer for image segmentation, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eomt_jax.weights.load import load, load_backbone

__all__ = ["load", "load_backbone"]


def __getattr__(name: str) -> Any:
    # Imported on first use: a worker process that reads images must not import JAX.
    if name in __all__:
        from eomt_jax.weights import load as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
