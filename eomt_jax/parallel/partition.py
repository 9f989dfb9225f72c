"""Places parameters on the mesh by a network's table of path patterns."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from eomt_jax.parallel.mesh import AXES, BATCH_AXES
from eomt_jax.parallel.platform import platform_of, tracing_for
from eomt_jax.trees import BATCH_STATS, leaf_path, to_variables

Array = jax.Array
PyTree = Any
Axes = tuple[str | None, ...]

Rules = tuple[tuple[str, Axes], ...]
"""Rows of (end of the path, mesh axis of each dimension); the first match counts."""


@dataclasses.dataclass(frozen=True)
class PartitionRules:
    """A network's table of how its parameters are split.

    The axis `tensor` splits heads and feed-forward width, so that one block needs one
    reduction for attention and one for its feed-forward; `fsdp` splits another
    dimension of the large matrices. Vectors are small and stay whole, except for biases
    of a dimension that `tensor` splits.

    Attributes:
      others: rules of parameters that `apply_sharded` gathers before the network runs.
      blocks: rules of parameters that `sharded_block` gathers, one block at a time.
    """

    others: Rules
    blocks: Rules = ()

    @property
    def all(self) -> Rules:
        return self.blocks + self.others


def partition_spec(
    path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, rules: Rules
) -> PartitionSpec:
    """Returns the spec of one parameter.

    A dimension that its mesh axis does not divide stays whole; the parameter's other
    dimensions are split all the same. Scalars and batch statistics stay whole.

    Args:
      path: names joined by "/"; a pattern matches its end, so that moments of the
        optimizer are split like their parameters.
      shape: the parameter's whole shape.
      mesh: from `parallel.mesh.create_mesh`.
      rules: the network's rules.

    Raises:
      ValueError: no rule matches, or the rule has another number of dimensions.
    """
    if not shape or path.startswith(f"{BATCH_STATS}/"):
        return PartitionSpec()
    for pattern, axes in rules:
        if not _matches(pattern, path):
            continue
        if len(axes) != len(shape):
            raise ValueError(
                f"parameter {path} has shape {shape}, but its partition rule "
                f"{pattern!r} names {len(axes)} dimensions: {axes}"
            )
        return PartitionSpec(
            *(
                axis if axis and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(axes, shape)
            )
        )
    raise ValueError(
        f"no partition rule matches parameter {path} of shape {shape}; add a row to the "
        "network's partition_rules"
    )


def _matches(pattern: str, path: str) -> bool:
    return re.search(rf"(^|/){pattern}$", path) is not None


def param_shardings(shapes: PyTree, mesh: Mesh, rules: PartitionRules) -> PyTree:
    """Returns a NamedSharding for each leaf of parameters or optimizer state.

    Args:
      shapes: arrays or jax.ShapeDtypeStructs, as from jax.eval_shape.
      mesh: from `parallel.mesh.create_mesh`.
      rules: the network's rules.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = leaf_path(path)
        return NamedSharding(mesh, partition_spec(name, leaf.shape, mesh, rules.all))

    return jax.tree_util.tree_map_with_path(sharding, shapes)


def place(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Copies an array that all processes have to the devices.

    Each process copies only the shards of its own devices; `jax.device_put` would first
    send the whole array to all processes, to compare it.
    """
    return jax.make_array_from_callback(
        value.shape, sharding, lambda index: value[index]
    )


def apply_sharded(
    model: nn.Module,
    params: PyTree,
    *args: Any,
    mesh: Mesh | None,
    rules: PartitionRules,
    **kwargs: Any,
) -> Any:
    """Calls model.apply with parameters and inputs on a mesh; call it under jit.

    `fsdp` splits both the parameters and the batch. XLA's partitioner must not choose
    which of the two it moves, since it computes wrong numbers if a matrix is split over
    fsdp × tensor and the batch over data × fsdp, with all three larger than 1 (seen
    with jax 0.10.2 and two Dense layers in a row). So every layer gets a split batch
    and whole or tensor-split weights. A transformer block gathers its own weights, see
    `sharded_block`; the others, which are few, are gathered here.

    Args:
      model: any module with parameters that `rules` name.
      params: the model's tree, see eomt_jax.trees, as `param_shardings` places it.
      *args: arguments of model.apply after the variables.
      mesh: from `parallel.mesh.create_mesh`; None computes on one device.
      rules: the model's rules.
      **kwargs: keyword arguments of model.apply.
    """
    if mesh is None:
        return model.apply(to_variables(params), *args, **kwargs)
    abstract = mesh.abstract_mesh
    platform = platform_of(mesh.devices.flat)
    # JAX's cache of traced functions takes the mesh of the context into account.
    with tracing_for(platform), jax.sharding.use_abstract_mesh(abstract):
        params = _gather(params, abstract, rules.others)
        return model.apply(to_variables(params), *args, **kwargs)


def sharded_block(
    block: type[nn.Module], *, rules: Rules, dtype: Any, remat: bool
) -> type[nn.Module]:
    """Returns a transformer block that gathers its weights whenever it computes.

    Outside of `apply_sharded`, and if the mesh's axis `fsdp` is 1, there is nothing to
    gather. Otherwise whole weights exist only while their block computes, and the
    backward pass gathers them again, with remat or without.

    Args:
      block: the module's class.
      rules: the rules of the block's parameters.
      dtype: type of activations. Split matrices are cast to it before they are sent;
        the block would cast them afterwards.
      remat: keep only the block's inputs for the backward pass.
    """
    mesh = computing_mesh()
    if mesh is None or mesh.shape["fsdp"] == 1:
        return nn.remat(block) if remat else block

    def gather(variables: PyTree) -> PyTree:
        return _gather(variables, mesh, rules, dtype=dtype)

    block = nn.map_variables(block, "params", trans_in_fn=gather)
    return nn.remat(block, policy=None if remat else _save_all_but_constrained)


def split_rows(x: Array) -> Array:
    """Returns activations of `apply_sharded`, split only by rows of the batch."""
    if computing_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def computing_mesh() -> AbstractMesh | None:
    """Returns the mesh that `apply_sharded` set, or None outside of it."""
    mesh = jax.sharding.get_abstract_mesh()
    # A mesh that the user set, or that of a shard_map, is not the one of apply_sharded.
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh if mesh.axis_names == AXES and automatic else None


def _gather(
    params: PyTree, mesh: AbstractMesh, rules: Rules, *, dtype: Any = None
) -> PyTree:
    """Gathers parameters that `rules` name; they stay split only over `tensor`."""

    def gather(path: tuple[Any, ...], leaf: Array) -> Array:
        name = leaf_path(path)
        if not any(_matches(pattern, name) for pattern, _ in rules):
            return leaf
        spec = partition_spec(name, leaf.shape, mesh, rules)
        if dtype is not None and "fsdp" in spec:
            leaf = leaf.astype(dtype)
        spec = PartitionSpec(*(axis if axis == "tensor" else None for axis in spec))
        return jax.lax.with_sharding_constraint(leaf, spec)

    return jax.tree_util.tree_map_with_path(gather, params)


def _save_all_but_constrained(primitive: Any, *_: Any, **__: Any) -> bool:
    """Returns False for gathered weights, so that jax.checkpoint drops them."""
    return primitive.name != "sharding_constraint"
