"""Sets how much of a GPU's memory JAX claims."""

import os

MEMORY_FRACTION = 0.9
"""Share of a GPU's memory; CUDA's context, kernels, NCCL and a screen need the rest."""

_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def claim_most_memory() -> None:
    """Makes JAX claim MEMORY_FRACTION of each GPU's memory instead of three quarters.

    Call it before JAX looks for devices. It does nothing if the user has set how much
    JAX may take.
    """
    if not any(variable in os.environ for variable in _VARIABLES):
        os.environ[_VARIABLES[0]] = str(MEMORY_FRACTION)
