"""Functions with hand-written gradients.

JAX's own gradients would store values that are cheap to compute again, or would use
operations that are slow on a CPU. The barriers keep XLA from recognising that the
backward pass repeats a computation, and from storing its result instead.

Legend: D embedding.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.custom_vjp
def backward_in_turn(x: Any, branch: Any) -> tuple[Any, Any]:
    """Returns its arguments; the branch's backward pass waits for the gradient of x.

    Use it for a branch whose values are computed again in the backward pass. The losses
    of all branches have their gradients early, so XLA could compute the values of all
    branches again at the same time, and would hold them all in memory.

    Args:
      x: an array, or a tree of them, with which the network goes on.
      branch: a value that depends on x.
    """
    return x, branch


backward_in_turn.defvjp(
    lambda x, branch: ((x, branch), None),
    lambda _, gradients: jax.lax.optimization_barrier(gradients),
)


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the exact GELU, computed by erf as in PyTorch.

    jax.nn.gelu uses erfc, which XLA computes by several functions on a CPU.
    """
    return 0.5 * x * _twice_normal_cdf(x)


def _twice_normal_cdf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return 1.0 + jax.lax.erf(x * _constant(math.sqrt(0.5), x))


def _constant(value: float, like: Array) -> Any:
    return np.float32(value).astype(like.dtype)


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, gradient):
    x = jax.lax.optimization_barrier(x)
    density = jnp.exp(-0.5 * x * x) * _constant(1 / math.sqrt(2 * math.pi), x)
    return (gradient * (0.5 * _twice_normal_cdf(x) + x * density),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: Float[Array, "*shape D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"],
    epsilon: float,
    on_gpu: bool = False,
) -> Float[Array, "*shape D"]:
    """Normalises the last axis in float32, and returns float32.

    flax's layer norm isn't used: the variance is computed in two passes, as in other
    frameworks, and bfloat16 activations must not be squared in bfloat16.

    Args:
      x: activations to normalise.
      scale: factor of the result.
      bias: added to the result.
      epsilon: added to the variance.
      on_gpu: whether the gradients of scale and bias read `x` once more. Otherwise a
        GPU's compiler would write their terms to memory in float32 before summing.
    """
    standardized, _ = standardize(x, epsilon)
    return standardized * scale + bias


def standardize(
    x: Float[Array, "*shape D"], epsilon: float
) -> tuple[Float[Array, "*shape D"], Float[Array, "*shape 1"]]:
    """Returns x with mean 0 and deviation 1 over the last axis, and 1 / deviation."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon)
    return x * inverse, inverse


def _layer_norm_forward(x, scale, bias, epsilon, on_gpu):
    return layer_norm(x, scale, bias, epsilon, on_gpu), (x, scale)


def _layer_norm_backward(epsilon, on_gpu, residuals, gradient):
    x, scale = jax.lax.optimization_barrier(residuals)
    standardized, inverse = standardize(x, epsilon)
    rows = tuple(range(x.ndim - 1))
    of_x = standardize_gradient(gradient * scale, standardized, inverse)
    if on_gpu:
        again = jax.lax.optimization_barrier(x)
        mean = again.astype(jnp.float32).mean(-1, keepdims=True)
        _, inverse = standardize(again, epsilon)
        mean, inverse = jax.lax.optimization_barrier((mean, inverse))
        standardized = (x.astype(jnp.float32) - mean) * inverse
    of_scale = (gradient * standardized).sum(rows)
    return of_x.astype(x.dtype), of_scale, gradient.sum(rows)


def standardize_gradient(
    gradient: Float[Array, "*shape D"],
    standardized: Float[Array, "*shape D"],
    inverse: Float[Array, "*inverse"],
    axes: int | tuple[int, ...] = -1,
) -> Float[Array, "*shape D"]:
    """Returns the gradient with respect to the input of `standardize`.

    Args:
      gradient: with respect to the result.
      standardized: the result.
      inverse: 1 / deviation.
      axes: the axes over which mean and deviation were computed.
    """
    along = (gradient * standardized).mean(axes, keepdims=True)
    mean = gradient.mean(axes, keepdims=True)
    return inverse * (gradient - mean - standardized * along)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def project(
    x: Float[Array, "*shape"], kernel: Float[Array, "*axes"], num_axes: int = 1
) -> Float[Array, "*out"]:
    """Contracts the last axes of `x` with the first of `kernel`, as jnp.tensordot does.

    The gradient of the kernel sums over all tokens of the batch. On a CPU XLA would
    write transposed activations to memory for that, unless they are matrices. On other
    platforms the reshape to matrices is a copy itself, or moves shards.
    """
    return jnp.tensordot(x, kernel, num_axes)


def _project_forward(x, kernel, num_axes):
    return project(x, kernel, num_axes), (x, kernel)


def _project_backward(num_axes, residuals, gradient):
    x, kernel = residuals
    kernel_gradient = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=functools.partial(_sum_matrices, num_axes=num_axes),
        default=functools.partial(_sum_tokens, num_axes=num_axes),
    )
    axes = tuple(range(num_axes - kernel.ndim, 0))
    return jnp.tensordot(gradient, kernel, (axes, axes)), kernel_gradient


def _sum_tokens(
    x: Float[Array, "*shape"], gradient: Float[Array, "*out"], *, num_axes: int
) -> Float[Array, "*axes"]:
    """Returns the gradient of a kernel that contracts `num_axes` axes of `x`."""
    tokens = tuple(range(x.ndim - num_axes))
    return jnp.tensordot(x, gradient, (tokens, tokens))


def _sum_matrices(
    x: Float[Array, "*shape"], gradient: Float[Array, "*out"], *, num_axes: int
) -> Float[Array, "*axes"]:
    """Returns what `_sum_tokens` does, as a product of matrices."""
    tokens, axes = x.shape[: x.ndim - num_axes], x.shape[x.ndim - num_axes :]
    features = gradient.shape[len(tokens) :]
    rows = math.prod(tokens)
    out = x.reshape(rows, math.prod(axes)).T @ gradient.reshape(rows, -1)
    return out.reshape(*axes, *features)


project.defvjp(_project_forward, _project_backward)


@jax.custom_vjp
def project_gelu(
    x: Float[Array, "*tokens C"], kernel: Float[Array, "C D"]
) -> Float[Array, "*tokens D"]:
    """Returns the product of gelu(x) and a kernel; keeps x alone for the gradient.

    The result of a feed-forward layer's GELU is as large as its input, and is cheap to
    compute again on devices with fast arithmetic.
    """
    return project(gelu(x), kernel)


def _project_gelu_forward(x, kernel):
    return project_gelu(x, kernel), (x, kernel)


def _project_gelu_backward(residuals, gradient):
    x, kernel = jax.lax.optimization_barrier(residuals)
    of_activation, of_kernel = _project_backward(1, (gelu(x), kernel), gradient)
    return *_gelu_backward(x, of_activation), of_kernel


project_gelu.defvjp(_project_gelu_forward, _project_gelu_backward)
