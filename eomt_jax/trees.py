"""Functions for trees of arrays: leaves by path, a network's variables as one tree.

All code that stores, loads or places a network's arrays handles one tree: the
parameters and, if a network has batch normalisation, its running statistics in the
entry "batch_stats". Flax keeps the two apart.
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
    """Splits the tree into "params" and "batch_stats", which Flax's `apply` takes."""
    if BATCH_STATS not in params:
        return {"params": params}
    rest = {name: part for name, part in params.items() if name != BATCH_STATS}
    return {"params": rest, BATCH_STATS: params[BATCH_STATS]}


def from_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Joins Flax's "params" and "batch_stats" to one tree."""
    params, stats = variables["params"], variables.get(BATCH_STATS)
    return {**params, BATCH_STATS: stats} if stats else {**params}
