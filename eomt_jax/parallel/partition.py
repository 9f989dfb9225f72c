"""Where each parameter lies on the mesh, by one table of path patterns."""

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any
Axes = tuple[str | None, ...]

# (end of the path, mesh axis of each dimension). The first row that matches counts.
# `tensor` splits heads and feed-forward width, so that one block needs one reduction
# for attention and one for its feed-forward; `fsdp` splits what is left of the large
# matrices. Vectors are small and stay whole, but for biases of a dimension that
# `tensor` splits.
RULES: tuple[tuple[str, Axes], ...] = (
    (r"attention/qkv/kernel", ("fsdp", None, "tensor", None)),
    (r"attention/qkv/bias", (None, "tensor", None)),
    (r"attention/out/kernel", ("tensor", None, "fsdp")),
    (r"mlp/(up|gate_up)/kernel", ("fsdp", "tensor")),
    (r"mlp/(up|gate_up)/bias", ("tensor",)),
    (r"mlp/down/kernel", ("tensor", "fsdp")),
    (r"(attention/out|mlp/down)/bias", (None,)),
    (r"layer_scale[12]", (None,)),
    (r"norm[12]?/(scale|bias)", (None,)),
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


def partition_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
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
        if not re.search(rf"(^|/){pattern}$", path):
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


def gather_fsdp(params: PyTree, mesh: Mesh) -> PyTree:
    """Parameters as the network is to compute with them, split over `tensor` alone.

    Call it under jit, between the stored parameters and model.apply. `fsdp` splits
    both the parameters and the batch, and XLA's partitioner must not be left to choose
    which of the two it moves: it computes wrong numbers where a matrix is split over
    fsdp × tensor and the batch over data × fsdp, all three larger than 1 (seen with
    jax 0.10.2; two Dense layers in a row are enough). Gathered first, every layer sees
    a split batch and whole or tensor-split weights.
    """

    def gather(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = partition_spec(name, leaf.shape, mesh)
        spec = PartitionSpec(*(axis if axis == "tensor" else None for axis in spec))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(gather, params)
