"""Gives random values to all parameters of networks of transformers."""

import numpy as np
import torch

torch.set_num_threads(1)


def randomize(model, seed: int = 0):
    """Draws every parameter so that activations stay of order one; sets eval mode.

    A norm, scale or token at its constant start would hide that it is read from the
    wrong place.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "layer_scale" in name or ("norm" in name and name.endswith("weight")):
            parameter.data = 1 + 0.2 * noise
        elif parameter.ndim in (2, 4) and name.endswith("weight"):
            parameter.data = noise / np.sqrt(parameter[0].numel())
        else:
            parameter.data = 0.3 * noise
    return model.eval()
