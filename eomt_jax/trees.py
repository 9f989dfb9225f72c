"""Trees of arrays: leaves by their paths, and a network's variables as one tree.

Everything that stores, loads or places a network's arrays handles one tree: the
parameters and, where a network has batch normalisation, its running statistics as their
entry "batch_stats". Flax takes the two apart.
"""

from collections.abc import Mapping
from typing import Any

import jax

BATCH_STATS = "batch_stats"


def leaf_path(path: tuple[Any, ...]) -> str:
    """Returns one of JAX's key paths as names joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, in the tree's order."""
    return {leaf_path(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def to_variables(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree as what Flax's `apply` takes: "params" and "batch_stats"."""
    if BATCH_STATS not in params:
        return {"params": params}
    rest = {name: part for name, part in params.items() if name != BATCH_STATS}
    return {"params": rest, BATCH_STATS: params[BATCH_STATS]}


def from_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns Flax's "params" and "batch_stats" as one tree."""
    params, stats = variables["params"], variables.get(BATCH_STATS)
    return {**params, BATCH_STATS: stats} if stats else {**params}
