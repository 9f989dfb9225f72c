"""Counts the floating-point operations of matrix products in a traced program."""

import math
from typing import Any

import jax

from eomt_jax.models.network import Network
from eomt_jax.parallel.platform import ANY, tracing_for
from eomt_jax.training.state import variable_shapes


def matmul_flops(jaxpr: Any, *, loops_once: bool = False, without: str = "") -> float:
    """Counts the FLOPs of all matrix products and convolutions, over all devices.

    A multiply-add is two operations. Products inside attention kernels are counted, and
    each time that rematerialisation computes a product again. A conditional counts as
    its most expensive branch, and a loop of unknown length as one pass.

    Args:
      jaxpr: result of jax.make_jaxpr, or `jax.stages.Traced.jaxpr`.
      loops_once: a scan counts as one pass too, as in the compiler's own count.
      without: name of a jax.named_scope whose products don't count.
    """
    total = 0.0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if without and without in str(equation.source_info.name_stack):
            continue
        inner = [
            matmul_flops(part, loops_once=loops_once, without=without)
            for value in equation.params.values()
            for part in (value if isinstance(value, (tuple, list)) else (value,))
            if hasattr(getattr(part, "jaxpr", part), "eqns")
        ]
        match equation.primitive.name:
            case "dot_general":
                total += _dot_flops(equation)
            case "conv_general_dilated":
                total += _convolution_flops(equation)
            case "cond":
                total += max(inner)
            case "scan":
                total += sum(inner) * (1 if loops_once else equation.params["length"])
            case "shard_map":
                total += sum(inner) * _num_shards(equation)
            case "pallas_call":
                total += sum(inner) * math.prod(equation.params["grid_mapping"].grid)
            case name if name.startswith("dot_product_attention"):
                total += _attention_flops(equation)
            case _:
                total += sum(inner)
    return total


def forward_flops(model: Network, *, training: bool, without: str = "") -> float:
    """Counts the FLOPs of a network's forward pass for one image.

    Args:
      model: the network.
      training: with masked attention and a prediction before each of its blocks;
        otherwise with the last prediction alone.
      without: see `matmul_flops`.
    """
    variables = variable_shapes(model)
    images = jax.ShapeDtypeStruct((1, *model.image_size, 3), "uint8")

    def forward(variables: Any, images: jax.Array, key: jax.Array) -> Any:
        if not training:
            return model.apply(variables, images)
        probs = jax.numpy.ones(model.num_masked_layers)
        return model.apply(variables, images, mask_probs=probs, rngs={"mask": key})

    # On a GPU a kernel would be a call, without products to count.
    with tracing_for(ANY):
        jaxpr = jax.make_jaxpr(forward)(variables, images, jax.random.key(0))
    return matmul_flops(jaxpr, without=without)


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    depth = math.prod(shape[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution_flops(equation: Any) -> float:
    numbers = equation.params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    outputs = kernel[numbers.rhs_spec[0]]
    depth = math.prod(kernel) // outputs
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def _attention_flops(equation: Any) -> float:
    """Returns the FLOPs of cuDNN's attention.

    It has two products in the forward pass, and five in the backward pass, of which one
    is computed again.
    """
    batch, rows, heads, depth = equation.invars[0].aval.shape
    tokens = equation.invars[1].aval.shape[1]
    products = 5 if "_bwd" in equation.primitive.name else 2
    return products * 2.0 * batch * heads * rows * tokens * depth


def _num_shards(equation: Any) -> int:
    """Returns into how many parts a shard_map splits its inputs."""
    mesh = equation.params["mesh"]
    axes = {
        axis
        for spec in equation.params["in_specs"]
        for entry in spec
        for axis in (entry if isinstance(entry, tuple) else (entry,))
        if axis is not None
    }
    return math.prod(mesh.shape[axis] for axis in axes)
