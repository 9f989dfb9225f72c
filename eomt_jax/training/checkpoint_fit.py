"""Cuts the queries and the class head of a checkpoint to what a run needs."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from eomt_jax.trees import leaf_path
from eomt_jax.weights.load import Loaded
from eomt_jax.weights.wording import listed

PyTree = Any


def fit_queries(
    params: PyTree, opened: Loaded, num_queries: int
) -> tuple[PyTree, tuple[str, ...]]:
    """Returns the parameters with at most so many queries, and a note on them.

    Args:
      params: of the checkpoint.
      opened: the checkpoint.
      num_queries: of the run. Of more queries the first ones are taken; to fewer ones
        `state.create_state` adds new ones.
    """
    stored = opened.model.num_queries
    if num_queries == stored:
        return params, ()
    num_new = num_queries - stored
    which = "the" if num_new > 0 else f"the first {num_queries} of the"
    rest = f", and {num_new} new ones" if num_new > 0 else ""
    params = _cut_rows(params, opened.model.query_params, num_queries)
    return params, (f"queries: {which} checkpoint's {stored}{rest}",)


def fit_class_head(
    params: PyTree,
    opened: Loaded,
    class_names: Sequence[str],
    *,
    choice: str,
    path: epath.PathLike,
) -> tuple[PyTree, tuple[str, ...]]:
    """Returns the parameters with what is kept of the class head, and notes on it.

    NaN stands for what is new in a head that is kept in part.

    Args:
      params: of the checkpoint.
      opened: the checkpoint.
      class_names: of the dataset, in label order, without "no object".
      choice: see `InitOptions.class_head`.
      path: of the checkpoint, for messages.

    Raises:
      ValueError: a head is to be kept that doesn't fit.
    """
    model, info = opened.model, opened.dataset_info
    head = model.class_head_name
    trained_names = [c.name for c in info.classes] if info else None
    if choice == "keep" and model.num_classes != len(class_names):
        raise ValueError(
            f"init.class_head = 'keep': {path} predicts {model.num_classes} classes "
            f"and the dataset has {len(class_names)}; set init.class_head = 'new'"
        )
    if choice == "keep" or choice == "auto" and trained_names == list(class_names):
        return params, ("class head: kept",)
    if choice == "by_name":
        sources = _sources_by_name(path, trained_names, class_names)
        notes = []
        for what, are_kept in (("kept", True), ("new", False)):
            names = [n for n, i in zip(class_names, sources) if (i >= 0) == are_kept]
            number = f"{len(names)} of {len(class_names)} classes"
            notes.append(f"class head, {what}: {number}: {listed(names)}")
        return _take_classes(params, head, sources), tuple(notes)
    whose = f"the {model.num_classes} of {info.name}" if info else "not known"
    note = f"class head: new; the checkpoint's classes are {whose}"
    return _without(params, head), (note,)


def _sources_by_name(
    path: epath.PathLike, trained: Sequence[str] | None, wanted: Sequence[str]
) -> list[int]:
    """Returns for each wanted class the checkpoint's label of that name, -1 without.

    Upper and lower case are the same.
    """
    if trained is None:
        raise ValueError(
            f"init.class_head = 'by_name': {path} doesn't say the names of its classes; "
            "set init.class_head = 'new', or 'keep' where its classes are the dataset's"
        )
    labels: dict[str, int] = {}
    for label, name in enumerate(trained):
        labels.setdefault(name.strip().casefold(), label)
    sources = [labels.get(name.strip().casefold(), -1) for name in wanted]
    if max(sources) < 0:
        raise ValueError(
            f"init.class_head = 'by_name': none of the dataset's classes "
            f"({listed(wanted[:8])}) has the name of one of {path}'s "
            f"({listed(trained[:8])}); set init.class_head = 'new'"
        )
    return sources


def _cut_rows(params: PyTree, paths: Collection[str], num_rows: int) -> PyTree:
    """Returns the tree with the first rows alone of some of its leaves."""
    return _map_leaves(
        params, lambda path, leaf: leaf[:num_rows] if path in paths else leaf
    )


def _take_classes(params: PyTree, head: str, sources: Sequence[int]) -> PyTree:
    """Returns the tree with a class head of other classes; NaN where a source is -1.

    "No object", the last one, is kept.
    """
    taken = np.array([*sources, -1])
    new = np.array([*(source < 0 for source in sources), False])

    def take(path: str, leaf: Any) -> Any:
        if not path.startswith(f"{head}/"):
            return leaf
        return np.where(new, np.float32(np.nan), leaf[..., taken])

    return _map_leaves(params, take)


def _without(params: PyTree, scope: str) -> PyTree:
    """Returns the tree without a scope that is named by its path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    kept = {p: leaf for p, leaf in flat.items() if not p.startswith(f"{scope}/")}
    return traverse_util.unflatten_dict(kept, sep="/")


def _map_leaves(tree: PyTree, function: Callable[[str, Any], Any]) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(leaf_path(path), leaf), tree
    )
