"""Times transformers' EoMT at the same work on the same device, as a rival to ours."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from eomt_jax.benchmark.torch_network import create_network
from eomt_jax.benchmark.torch_reference import pixel_values
from eomt_jax.losses.options import CriterionOptions
from eomt_jax.models.network import Network

# Arguments of torch.compile; in the mode "eager" the network isn't compiled.
MODES: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compiled": {},
    "max-autotune": {"mode": "max-autotune"},
}


class Rival:
    """transformers' network without masked attention, as in inference.

    Attributes:
      device: "cuda" if JAX computes on a GPU, "cpu" otherwise.
      dtype: torch's dtype of parameters and activations.
    """

    def __init__(self, model: Network, params: Any, criterion: CriterionOptions):
        """
        Args:
          model: our network, whose architecture and dtype it takes.
          params: our parameters, in host memory.
          criterion: the recipe's `criterion`.

        Raises:
          ValueError: JAX computes on a GPU, and this torch is built without CUDA.
        """
        import torch

        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("this torch has no CUDA, so it can't be compared")
        self.dtype = getattr(torch, np.dtype(model.vit.dtype).name)
        network = create_network(model, params, criterion).eval()
        # With probabilities of 1 it would use masked attention, and predict before each
        # block, in inference too.
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

        The pixels are on the device and already normalised, which our network does
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
