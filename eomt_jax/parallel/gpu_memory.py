"""How much of a GPU's memory JAX claims."""

import os

MEMORY_FRACTION = 0.9
"""Of a GPU's memory. The rest is CUDA's: its context, kernels, NCCL's buffers, a screen."""

_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def claim_most_memory() -> None:
    """Has JAX claim MEMORY_FRACTION of each GPU instead of three quarters.

    Call it before JAX looks for devices. It does nothing where the user has set how much
    JAX may take.
    """
    if not any(variable in os.environ for variable in _VARIABLES):
        os.environ[_VARIABLES[0]] = str(MEMORY_FRACTION)
