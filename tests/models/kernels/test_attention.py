"""Every platform's kernel equals one reference, and the right one is chosen."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models.attention import Attention
from eomt_jax.models.kernels import attention
from eomt_jax.models.kernels.attention import choose_kernel
from eomt_jax.models.kernels.cudnn_attention import attend_by_cudnn
from eomt_jax.models.kernels.splash_attention import (
    attend_by_splash,
    padded_length,
)
from eomt_jax.models.kernels.xla_attention import attend, attend_on_cpu
from eomt_jax.models.vit import VIT_RULES
from eomt_jax.parallel.mesh import MeshOptions, batch_sharding, create_mesh
from eomt_jax.parallel.partition import apply_sharded, param_shardings
from eomt_jax.parallel.platform import ANY, Platform, platform_of, tracing_for

H100, T4, TPU = Platform("gpu", (9, 0)), Platform("gpu", (7, 5)), Platform("tpu")


def splash(query, key, value):
    """Calls the TPU's kernel without a TPU, with the padding that Attention adds."""
    num_tokens = key.shape[1]
    padding = padded_length(num_tokens) - num_tokens
    key, value = (
        jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (key, value)
    )
    return attend_by_splash(query, key, value, num_tokens=num_tokens, interpret=True)


KERNELS = {
    "xla": attend,
    "cpu": attend_on_cpu,
    "cudnn": functools.partial(attend_by_cudnn, implementation="xla"),
    "splash": splash,
}


def random_inputs(num_rows, num_tokens, dtype=jnp.float32):
    """Returns query, key, value and gradient of the output: one image, two heads."""
    rng = np.random.default_rng(num_tokens)
    sizes = (num_rows, num_tokens, num_tokens, num_rows)
    return [jnp.asarray(rng.standard_normal((1, size, 2, 64)), dtype) for size in sizes]


@functools.cache
def inputs_and_definition(num_rows, num_tokens):
    """Returns random inputs and the results of `definition` on them."""
    inputs = random_inputs(num_rows, num_tokens)
    return inputs, definition(*inputs)


def definition(query, key, value, gradient):
    """Returns output and gradients of query, key and value in float64, by NumPy."""
    query, key, value, gradient = (
        np.asarray(x, np.float64).swapaxes(1, 2) for x in (query, key, value, gradient)
    )
    scale = query.shape[-1] ** -0.5
    logits = scale * query @ key.swapaxes(2, 3)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = weights @ value
    of_weights = gradient @ value.swapaxes(2, 3)
    of_logits = weights * (of_weights - (gradient * out).sum(-1, keepdims=True))
    results = (
        out,
        scale * of_logits @ key,
        scale * of_logits.swapaxes(2, 3) @ query,
        weights.swapaxes(2, 3) @ gradient,
    )
    return [x.swapaxes(1, 2) for x in results]


def results(kernel, query, key, value, gradient):
    def run(query, key, value, gradient):
        out, vjp = jax.vjp(kernel, query, key, value)
        return out, *vjp(gradient)

    return [
        np.asarray(x, np.float64) for x in jax.jit(run)(query, key, value, gradient)
    ]


# The sizes are prefix and patches of 640 pixels, the same with 200 queries, odd numbers
# of rows and tokens, a single block, and one row.
SIZES = [(1605, 1605), (1605, 1805), (301, 333), (128, 128), (1, 2)]


@pytest.mark.usefixtures("optimized_programs")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_equals_the_definition_in_float32(name, sizes):
    inputs, expected = inputs_and_definition(*sizes)
    found = results(KERNELS[name], *inputs)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))


@pytest.mark.usefixtures("optimized_programs")
@pytest.mark.parametrize("name", ["cudnn", "splash"])
def test_kernel_is_no_worse_than_xlas_in_bfloat16(name):
    inputs = random_inputs(301, 333, jnp.bfloat16)
    exact = definition(*inputs)
    found, by_xla = (results(KERNELS[kernel], *inputs) for kernel in (name, "xla"))
    for a, b, c in zip(exact, found, by_xla, strict=True):
        assert np.abs(b - a).mean() < 1.1 * np.abs(c - a).mean()


@pytest.mark.usefixtures("optimized_programs")
@pytest.mark.parametrize("name", ["xla", "cpu", "cudnn", "splash"])
def test_kernel_equals_the_definition_at_1280_pixels(name):
    """Only 200 rows attend to 6405 tokens; all would take the reference a minute."""
    inputs, expected = inputs_and_definition(200, 6405)
    found = results(KERNELS[name], *inputs)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))


@pytest.mark.usefixtures("optimized_programs")
def test_splash_equals_the_definition_past_what_a_chip_holds_at_once():
    inputs = random_inputs(2, 8200)
    found = results(splash, *inputs)
    for a, b in zip(found, definition(*inputs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize(
    "num_tokens, padded",
    # There is one block up to 2048 tokens, and then 2, 3 and more blocks of equal size.
    [(1, 128), (1605, 1664), (1805, 1920), (2048, 2048), (2049, 2304), (4301, 4608)]
    + [(6605, 6656), (8192, 8192), (16591, 17280)],
)
def test_splash_pads_tokens_to_equal_blocks(num_tokens, padded):
    assert padded_length(num_tokens) == padded


@pytest.mark.parametrize(
    "platform, dtype, head_dim, name",
    [
        (H100, "bfloat16", 64, "cudnn"),
        (H100, "float16", 64, "cudnn"),
        (H100, "float32", 64, "xla"),
        (H100, "bfloat16", 136, "xla"),
        (H100, "bfloat16", 60, "xla"),
        (T4, "bfloat16", 64, "xla"),
        (Platform("gpu"), "bfloat16", 64, "xla"),
        (TPU, "bfloat16", 64, "splash"),
        (TPU, "bfloat16", 128, "splash"),
        (TPU, "bfloat16", 32, "xla"),
        (TPU, "float32", 64, "xla"),
        (Platform("cpu"), "bfloat16", 64, "cpu"),
        (Platform("cpu", num_devices=8), "float32", 64, "xla"),
        (ANY, "bfloat16", 64, "xla"),
    ],
    ids=str,
)
def test_kernel_follows_devices_dtype_and_heads(platform, dtype, head_dim, name):
    options = {"dtype": jnp.dtype(dtype), "head_dim": head_dim}
    assert choose_kernel(**options, platform=platform).name == name
    with tracing_for(platform):
        assert choose_kernel(**options).name == name


@pytest.mark.parametrize(
    "name, capability, expected",
    [
        ("gpu", "9.0", H100),
        ("cuda", "7.5", T4),
        ("rocm", "gfx90a", Platform("gpu")),
        ("tpu", None, TPU),
    ],
)
def test_platform_is_read_from_devices(name, capability, expected):
    device = types.SimpleNamespace(platform=name, compute_capability=capability)
    assert platform_of([device]) == expected
    assert platform_of([device] * 4).num_devices == 4


def test_default_device_counts_where_no_mesh_is():
    """It also counts if JAX's default device is not its first one."""
    with jax.default_device(jax.devices("cpu")[1]):
        kernel = choose_kernel(dtype=jnp.dtype("float32"), head_dim=64)
    assert kernel.name == "cpu"


def stand_in(name):
    """Returns a kernel of an accelerator that runs on a CPU."""
    if name == "splash":
        function = functools.partial(attend_by_splash, interpret=True)
        return attention.Kernel(
            name, attention._on_each_device(function), padded_length
        )
    function = attention._all_tokens(KERNELS["cudnn"])
    return attention.Kernel(name, attention._on_each_device(function))


@pytest.mark.usefixtures("optimized_programs")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["cudnn", "splash"])
def test_layer_is_the_same_with_an_accelerators_kernel_on_a_2_by_2_mesh(
    monkeypatch, name, masked
):
    """It compares outputs and gradients, with odd tokens and heads on two devices."""
    num_queries, num_tokens, dim = 6, 59, 128
    layer = Attention(num_heads=2)
    rng = np.random.default_rng(0)
    x, gradient = jnp.asarray(rng.standard_normal((2, 2, num_tokens, dim)), jnp.float32)
    mask = jnp.asarray(rng.random((2, num_queries, 40)) < 0.5) if masked else None
    scale = jnp.linspace(0.5, 1.5, dim)
    params = jax.jit(layer.init)(jax.random.key(0), x, scale)["params"]

    def run(mesh):
        def call(params, x):
            return apply_sharded(
                layer, params, x, scale, mask, mesh=mesh, rules=VIT_RULES
            )

        def all_of(params, x):
            out, vjp = jax.vjp(call, params, x)
            return out, vjp(gradient)

        if mesh is None:
            placed = params, x
        else:
            shardings = param_shardings({"attention": params}, mesh, VIT_RULES)
            shardings = shardings["attention"]
            placed = jax.device_put((params, x), (shardings, batch_sharding(mesh)))
        return jax.device_get(jax.jit(all_of)(*placed))

    with tracing_for(ANY):
        expected = run(None)
    mesh = create_mesh(MeshOptions(fsdp=2, tensor=2), devices=jax.devices()[:4])
    monkeypatch.setattr(
        "eomt_jax.models.attention.choose_kernel", lambda **_: stand_in(name)
    )
    found = run(mesh)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
