"""Where each parameter lies on the mesh, by one table of path patterns."""

import re
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from eomt_jax.parallel.mesh import AXES, BATCH_AXES
from eomt_jax.parallel.platform import platform_of, tracing_for

Array = jax.Array
PyTree = Any
Axes = tuple[str | None, ...]

# (end of the path, mesh axis of each dimension). The first row that matches counts.
# `tensor` splits heads and feed-forward width, so that one block needs one reduction
# for attention and one for its feed-forward; `fsdp` splits what is left of the large
# matrices. Vectors are small and stay whole, but for biases of a dimension that
# `tensor` splits.
Rules = tuple[tuple[str, Axes], ...]

# A transformer block's: `sharded_block` gathers them, one block at a time.
BLOCK_RULES: Rules = (
    (r"attention/qkv/kernel", ("fsdp", None, "tensor", None)),
    (r"attention/qkv/bias", (None, "tensor", None)),
    (r"attention/out/kernel", ("tensor", None, "fsdp")),
    (r"mlp/(up|gate_up)/kernel", ("fsdp", "tensor")),
    (r"mlp/(up|gate_up)/bias", ("tensor",)),
    (r"mlp/down/kernel", ("tensor", "fsdp")),
    (r"(attention/out|mlp/down)/bias", (None,)),
    (r"layer_scale[12]", (None,)),
    (r"norm[12]/(scale|bias)", (None,)),
)
# The others': `apply_sharded` gathers them, all before the network runs.
OTHER_RULES: Rules = (
    (r"norm/(scale|bias)", (None,)),
    (r"patch_embedding/kernel", (None, None, None, "fsdp")),
    (r"patch_embedding/bias", (None,)),
    (r"position_embedding", (None, None, "fsdp")),
    (r"(class_token|register_tokens)", (None, None)),
    (r"queries", (None, "fsdp")),
    (r"class_head/kernel", ("fsdp", None)),
    (r"mask_head/layer_\d+/kernel", ("fsdp", "tensor")),
    (r"mask_head/layer_\d+/bias", ("tensor",)),
    (r"class_head/bias", (None,)),
    (r"upscale/block_\d+/transposed/kernel", ("fsdp", None, None, "tensor")),
    (r"upscale/block_\d+/transposed/bias", ("tensor",)),
    (r"upscale/block_\d+/depthwise/kernel", (None, None, "tensor")),
)
RULES: Rules = BLOCK_RULES + OTHER_RULES


def partition_spec(
    path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
    """The spec of one parameter.

    A dimension that its mesh axis does not divide stays whole; the parameter's other
    dimensions are split all the same. Scalars stay whole.

    Args:
      path: names joined by "/"; what stands before the pattern does not matter, so
        that optimizer moments follow their parameters.
      shape: the parameter's whole shape.
      mesh: from `parallel.mesh.create_mesh`.
    """
    if not shape:
        return PartitionSpec()
    for pattern, axes in RULES:
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
        f"no partition rule matches parameter {path} of shape {shape}; add a row to "
        "eomt_jax/parallel/partition.py"
    )


def _matches(pattern: str, path: str) -> bool:
    return re.search(rf"(^|/){pattern}$", path) is not None


def param_shardings(shapes: PyTree, mesh: Mesh) -> PyTree:
    """A NamedSharding for each leaf of parameters or optimizer state.

    Args:
      shapes: arrays or jax.ShapeDtypeStructs, as from jax.eval_shape.
      mesh: from `parallel.mesh.create_mesh`.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, shapes)


def place(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Copies an array that all processes have onto the devices.

    Each process copies its own devices' shards alone; `jax.device_put` would first send
    the whole array to all processes, to compare.
    """
    return jax.make_array_from_callback(
        value.shape, sharding, lambda index: value[index]
    )


def apply_sharded(
    model: nn.Module, params: PyTree, *args: Any, mesh: Mesh | None, **kwargs: Any
) -> Any:
    """model.apply for parameters and inputs that lie on a mesh; call it under jit.

    `fsdp` splits both the parameters and the batch, and XLA's partitioner must not be
    left to choose which of the two it moves: it computes wrong numbers where a matrix
    is split over fsdp × tensor and the batch over data × fsdp, all three larger than 1
    (seen with jax 0.10.2; two Dense layers in a row are enough). So every layer is
    given a split batch and whole or tensor-split weights. A transformer block gathers
    its own, see `sharded_block`; what else there is, and it is little, is gathered
    here.

    Args:
      model: an EoMT, a ViT, or any module with parameters that RULES name.
      params: the model's, as `param_shardings` places them.
      *args: of model.apply, after the variables.
      mesh: from `parallel.mesh.create_mesh`; None computes in one place.
      **kwargs: of model.apply.
    """
    if mesh is None:
        return model.apply({"params": params}, *args, **kwargs)
    abstract = mesh.abstract_mesh
    platform = platform_of(mesh.devices.flat)
    # JAX keeps the mesh of the context in the keys of what it has traced.
    with tracing_for(platform), jax.sharding.use_abstract_mesh(abstract):
        params = _gather(params, abstract, OTHER_RULES)
        return model.apply({"params": params}, *args, **kwargs)


def sharded_block(
    block: type[nn.Module], *, dtype: Any, remat: bool
) -> type[nn.Module]:
    """A transformer block that gathers what `fsdp` splits, each time it computes.

    Outside of `apply_sharded`, and where the mesh's axis `fsdp` is 1, there is nothing
    to gather. Otherwise whole weights live while their block computes, and no longer:
    the backward pass gathers them again, with remat or without.

    Args:
      block: the module's class; its parameters are those of BLOCK_RULES.
      dtype: of activations. Split matrices are cast before they travel; the block
        would cast them to the same afterwards.
      remat: keep nothing of the block for the backward pass but its inputs.
    """
    mesh = computing_mesh()
    if mesh is None or mesh.shape["fsdp"] == 1:
        return nn.remat(block) if remat else block

    def gather(variables: PyTree) -> PyTree:
        return _gather(variables, mesh, BLOCK_RULES, dtype=dtype)

    block = nn.map_variables(block, "params", trans_in_fn=gather)
    return nn.remat(block, policy=None if remat else _save_all_but_constrained)


def split_rows(x: Array) -> Array:
    """Activations that `apply_sharded` computes: split by rows of the batch alone."""
    if computing_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def computing_mesh() -> AbstractMesh | None:
    """The mesh that `apply_sharded` set, or None outside of it."""
    mesh = jax.sharding.get_abstract_mesh()
    # A mesh of the user's own, or the inside of a shard_map, is none of ours.
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    return mesh if mesh.axis_names == AXES and automatic else None


def _gather(
    params: PyTree, mesh: AbstractMesh, rules: Rules, *, dtype: Any = None
) -> PyTree:
    """Parameters that `rules` name as the network computes with them: on `tensor`."""

    def gather(path: tuple[Any, ...], leaf: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not any(_matches(pattern, name) for pattern, _ in rules):
            return leaf
        spec = partition_spec(name, leaf.shape, mesh)
        if dtype is not None and "fsdp" in spec:
            leaf = leaf.astype(dtype)
        spec = PartitionSpec(*(axis if axis == "tensor" else None for axis in spec))
        return jax.lax.with_sharding_constraint(leaf, spec)

    return jax.tree_util.tree_map_with_path(gather, params)


def _save_all_but_constrained(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of jax.checkpoint that keeps no gathered weights."""
    return primitive.name != "sharding_constraint"
