"""Every stage of ViT-Adapter equals its authors' numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.benchmark.flops import matmul_flops
from eomt_jax.models.adapter_layers import Extractor, Injector
from eomt_jax.models.mask2former import deformable_attention as attention_module
from eomt_jax.models.mask2former.deformable_attention import DeformableAttention
from eomt_jax.models.variants import create_vit
from eomt_jax.models.vit_adapter import (
    SpatialPrior,
    ViTAdapter,
)
from eomt_jax.parallel.platform import ANY, tracing_for
from tests.models.adapter_network import (
    AdapterNetwork,
    adapter_variables,
    network_variables,
    small_network,
)
from tests.models.golden_files import read_golden, to_nhwc

MAPS = ("f4", "f8", "f16", "f32")


@pytest.fixture(scope="module")
def weights():
    return read_golden("adapter_weights")


def flat(maps):
    """Returns maps as rows of pixels, which is how the golden files have most of them."""
    return maps.reshape(len(maps), -1, maps.shape[-1])


def intermediates(state):
    """Returns what the golden files name, from the results of all modules."""
    adapter, vit = (state["intermediates"][name] for name in ("adapter", "vit"))
    prior = adapter["prior"]["__call__"][0]
    named = {f"spm_c{i + 1}": flat(x) for i, x in enumerate(prior)}
    named["tokens0"] = vit["tokens"][0]
    for i in range(4):
        named[f"inter{i}/x_injected"] = adapter[f"injector_{i}"]["__call__"][0]
        named[f"inter{i}/tokens"] = vit[f"block_{i}"]["__call__"][0]
        named[f"inter{i}/c_extractor"] = adapter[f"extractor_{i}"]["__call__"][0]
    named["inter3/c_extra1"] = adapter["extractor_5"]["__call__"][0]
    return named


@pytest.fixture(scope="module")
def golden(weights):
    return weights | read_golden("adapter_eval")


def evaluate(golden, dtype):
    """Returns the maps and the results of all modules."""
    model = small_network(dtype=dtype, adapter={"dtype": dtype})
    variables = network_variables(golden, model)

    @jax.jit
    def apply(pixels):
        return model.apply(
            variables,
            pixels,
            method="maps",
            capture_intermediates=lambda _, method: method in ("__call__", "tokens"),
            mutable=["intermediates"],
        )

    return apply(to_nhwc(golden["in/image"]))


def test_every_stage_on_a_non_square_image_equals_the_authors(golden):
    maps, state = evaluate(golden, jnp.float32)
    found = intermediates(state) | dict(zip(MAPS, maps, strict=True))
    wanted = {k.removeprefix("out/"): x for k, x in golden.items() if "out/" in k}
    assert len(wanted) == 19
    for name, x in wanted.items():
        x = to_nhwc(x) if x.ndim == 4 else x
        np.testing.assert_allclose(found[name], x, atol=2e-5, err_msg=name)


def test_bfloat16_maps_are_near_those_in_float32(golden):
    maps, state = evaluate(golden, jnp.bfloat16)
    assert {x.dtype for x in intermediates(state).values()} == {jnp.dtype("bfloat16")}
    for found, name in zip(maps, MAPS, strict=True):
        expected = to_nhwc(golden[f"out/{name}"])
        error = jnp.sqrt(jnp.square(found - expected).mean())
        assert found.dtype == jnp.bfloat16
        assert 1e-4 < error < 0.05 * expected.std()


@pytest.fixture(scope="module")
def eps(weights):
    """Returns inputs and results with variances near the norms' epsilon."""
    return read_golden("adapter_eps"), adapter_variables(weights)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_epsilon_of_batch_norms_is_the_authors(eps, mode):
    golden, variables = eps

    def scale(path, x):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        factors = {"conv/kernel": 2**-8, "norm/mean": 2**-8, "norm/var": 2**-16}
        return x * factors.get("/".join(path.split("/")[-2:]), 1)

    prior = {kind: tree["prior"] for kind, tree in variables.items()}
    prior = jax.tree_util.tree_map_with_path(scale, prior)
    pixels = to_nhwc(golden["in/image"])

    @jax.jit
    def apply():
        return SpatialPrior(64, 16).apply(
            prior, pixels, mode == "train", mutable=["batch_stats"]
        )

    maps, _ = apply()
    np.testing.assert_allclose(flat(maps[3]), golden[f"out/{mode}_c4"], atol=1e-5)


def test_epsilon_of_layer_norms_is_the_authors(eps):
    golden, variables = eps
    patches, context = (jnp.asarray(golden[f"in/{name}"]) for name in "xc")
    attention = functools.partial(
        DeformableAttention, 4, value_ratio=0.5, name="deformable"
    )

    sizes = (4, 4), ((8, 8), (4, 4), (2, 2))

    def apply(module, name, *inputs):
        params = variables["params"][name]
        return jax.jit(lambda: module.apply({"params": params}, *inputs))()

    injector = Injector(attention, *sizes)
    found = apply(injector, "injector_0", patches, context)
    np.testing.assert_allclose(found, golden["out/injector"], atol=1e-5)
    extractor = Extractor(attention, *sizes, mlp_dim=16)
    found = apply(extractor, "extractor_0", context, patches)
    np.testing.assert_allclose(found, golden["out/extractor"], atol=1e-5)


def shapes_of(model, batch=1):
    images = jax.ShapeDtypeStruct((batch, *model.vit.image_size, 3), jnp.uint8)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), images)


@pytest.fixture
def no_sampling(monkeypatch):
    """Replaces reading from maps by zeros, which takes most of the time of tracing."""
    monkeypatch.setattr(
        attention_module,
        "deformable_attention",
        lambda values, locations, *_: jnp.zeros(
            (*locations.shape[:3], values.shape[-1]), values.dtype
        ),
    )


@pytest.mark.usefixtures("no_sampling")
def test_number_of_operations():
    """fvcore counted 132.9e9 multiply-adds, with the few of sampling and norms."""
    vit = create_vit("large", image_size=(640, 640), depth=1)
    model = AdapterNetwork(vit, ViTAdapter(num_heads=16))
    images = jax.ShapeDtypeStruct((1, 640, 640, 3), jnp.uint8)
    _, variables = shapes_of(model)
    with tracing_for(ANY):
        both = jax.make_jaxpr(model.apply)(variables, images)
        plain = jax.make_jaxpr(vit.apply)(
            {"params": variables["params"]["vit"]}, images
        )
    flops = matmul_flops(both) - matmul_flops(plain)
    np.testing.assert_allclose(flops / 2, 132.9e9, rtol=0.01)


@pytest.mark.usefixtures("no_sampling")
@pytest.mark.parametrize(
    "fields",
    [
        {"positions": "rotary", "qkv_bias": "no_key"},
        {"num_register_tokens": 0, "patch_size": 8, "depth": 6},
    ],
)
def test_a_new_adapter_leaves_the_tokens_of_any_vit_as_they_are(fields):
    """The ViT's blocks see nothing of the maps while γ is 0."""
    model = small_network((32, 64), **fields)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)
    _, shapes = shapes_of(model)
    random = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: 0.2 * np.abs(random.normal(size=x.shape)).astype(np.float32), shapes
    )
    for i in range(4):
        injector = variables["params"]["adapter"][f"injector_{i}"]
        injector["gamma"] = np.zeros(64, np.float32)
    vit_variables = {"params": variables["params"]["vit"]}

    @jax.jit
    def apply():
        maps, state = model.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        blocks = state["intermediates"]["vit"]
        return maps, blocks[f"block_{model.vit.depth - 1}"]["__call__"][0]

    maps, tokens = apply()
    found = model.vit.apply(vit_variables, tokens, method=lambda vit, x: vit.norm(x))
    expected = jax.jit(model.vit.apply)(vit_variables, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    sizes = [(8, 16), (4, 8), (2, 4), (1, 2)]
    assert [m.shape for m in maps] == [(2, *size, 64) for size in sizes]


@pytest.mark.usefixtures("no_sampling")
def test_parameters_start_as_the_authors_do(rng):
    attention = functools.partial(DeformableAttention, 4, name="deformable")
    patches, context = jnp.zeros((1, 4, 64)), jnp.zeros((1, 21, 64))
    sizes = (2, 2), ((4, 4), (2, 2), (1, 1))

    @jax.jit
    def init():
        injector = Injector(attention, *sizes)
        extractor = Extractor(attention, *sizes, mlp_dim=64)
        return (
            injector.init(rng, patches, context)["params"],
            extractor.init(rng, context, patches)["params"],
            SpatialPrior(64, 16).init(rng, jnp.zeros((1, 32, 32, 3)), False)["params"],
        )

    injector, extractor, prior = init()
    assert not injector["gamma"].any()
    mlp = extractor["conv_mlp"]
    deviations = {
        0.02: mlp["up"]["kernel"],
        np.sqrt(2 / 9): mlp["depthwise"]["kernel"],
        np.sqrt(2 / (9 * 32)): prior["stage_8"]["conv"]["kernel"],
        np.sqrt(2 / 64): prior["projection_32"]["kernel"],
    }
    for deviation, kernel in deviations.items():
        np.testing.assert_allclose(kernel.std(), deviation, rtol=0.1)
    assert not mlp["depthwise"]["bias"].any()
