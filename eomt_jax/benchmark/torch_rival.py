"""transformers' EoMT as a rival in a benchmark: the same work on the same device."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from eomt_jax.benchmark.torch_network import create_network
from eomt_jax.benchmark.torch_reference import pixel_values
from eomt_jax.models.network import Network

# How torch.compile is called; eager isn't compiled.
MODES: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compiled": {},
    "max-autotune": {"mode": "max-autotune"},
}


class Rival:
    """The network without masked attention, as it is in inference.

    Attributes:
      device: "cuda" where JAX computes on a GPU, "cpu" otherwise.
      dtype: torch's, of parameters and activations.
    """

    def __init__(self, model: Network, params: Any, criterion: Any):
        """
        Args:
          model: ours, whose architecture, dtype and weights it takes.
          params: its parameters, in host memory.
          criterion: the recipe's.

        Raises:
          ValueError: JAX computes on a GPU, and this torch knows of none.
        """
        import torch

        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("this torch is built without CUDA: nothing to compare")
        self.dtype = getattr(torch, np.dtype(model.vit.dtype).name)
        network = create_network(model, params, criterion).eval()
        # Kept at one it would mask, and predict before each block, in inference too.
        network.attn_mask_probs.zero_()
        self._network = network.to(self.device, self.dtype)

    def network(self, mode: str) -> Callable[..., Any]:
        """Returns the function to call with pixel_values; `mode` is a key of MODES."""
        import torch

        options = MODES[mode]
        if options is None:
            return self._network
        return torch.compile(self._network, **options)

    def job(self, images: np.ndarray, mode: str) -> Callable[[], Any]:
        """Returns a function that predicts masks and classes of `images` once.

        The pixels lie on the device and are normalised already, which our network does
        itself. `mode` is a key of MODES.
        """
        import torch

        pixels = pixel_values(images).to(self.device, self.dtype)
        call = self.network(mode)

        def predict() -> None:
            with torch.inference_mode():
                call(pixel_values=pixels)
                if self.device == "cuda":
                    torch.cuda.synchronize()

        return predict
