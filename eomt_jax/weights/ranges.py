"""Ranges of a network's numbers that no tensor's shape determines."""

from typing import Any

from etils import epath

from eomt_jax.weights.wording import shown

# All of them are above 0; the largest of each that makes sense.
LARGEST = {
    "layer_norm_eps": 1.0,
    "layer_scale_init": 1e3,
    "rope_theta": 1e12,
    "rope_rescale": 1e3,
}


def check_number(source: epath.PathLike, name: str, value: Any) -> float:
    """Returns a number of the network, or raises an error if it is out of its range.

    Args:
      source: the file of the number, for the message.
      name: a key of LARGEST.
      value: the number from a config, model.json or a caller.
    """
    largest = LARGEST[name]
    if type(value) not in (int, float) or not 0 < value <= largest:
        raise ValueError(
            f"{source}: {name} = {shown(value)}; wanted a number above 0 and up to "
            f"{largest:g}."
        )
    return float(value)
