"""A ViT-Adapter's training pass on eight devices equals that on one, with remat too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from eomt_jax.models.vit import VIT_RULES
from eomt_jax.models.vit_adapter import ADAPTER_RULES
from eomt_jax.parallel.mesh import BATCH_AXES, MeshOptions, create_mesh
from eomt_jax.parallel.partition import PartitionRules, apply_sharded, param_shardings
from eomt_jax.trees import BATCH_STATS, from_variables, leaves_by_path
from tests.models.adapter_network import small_network

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(jax.device_count() < 8, reason="wants eight devices"),
]

RULES = PartitionRules(
    others=VIT_RULES.others + ADAPTER_RULES.others,
    blocks=VIT_RULES.blocks + ADAPTER_RULES.blocks,
)
# Ten batch norms in a row, the last of 16 values a channel, enlarge what rounding does.
TOLERANCE = 5e-5

# A norm follows them that takes any constant away, or they aren't used.
WITHOUT_GRADIENT = {
    "adapter/upscale/bias",
    "adapter/prior/projection_4/bias",
    "vit/norm/scale",
    "vit/norm/bias",
}


def network(remat):
    return small_network(
        (32, 64),
        remat=remat,
        layer_scale_init=0.5,
        adapter={"num_points": 2, "remat": remat},
    )


@pytest.fixture(scope="module")
def images():
    """Returns images of unlike brightness, so that no device has the batch's mean."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 160, (8, 32, 64, 3), np.uint8)
    return images + 10 * np.arange(8, dtype=np.uint8)[:, None, None, None]


@pytest.fixture(scope="module")
def params(images):
    """Returns random parameters, in which no scale starts at 0."""
    shapes = jax.eval_shape(network(False).init, jax.random.key(0), images)
    rng = np.random.default_rng(1)

    def draw(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        noise = rng.normal(size=x.shape).astype(np.float32)
        if name.endswith(("scale", "gamma", "var")):
            return 1 + 0.2 * noise
        fan_in = np.prod(x.shape[:-1]) if name.endswith("kernel") else 10
        return noise / np.sqrt(fan_in)

    return jax.tree_util.tree_map_with_path(draw, from_variables(shapes))


def training_pass(params, images, shape, remat):
    """Returns gradients and running statistics, on a mesh of a shape."""
    mesh = create_mesh(MeshOptions(*shape), devices=jax.devices()[: np.prod(shape)])
    model = network(remat)

    @jax.jit
    def step(params, images):
        stats = params.pop(BATCH_STATS)

        def loss(params):
            maps, updated = apply_sharded(
                model,
                {**params, BATCH_STATS: stats},
                images,
                True,
                mesh=mesh,
                rules=RULES,
                mutable=[BATCH_STATS],
            )
            return sum(jnp.sin(2 * m).mean() for m in maps), updated[BATCH_STATS]

        return jax.grad(loss, has_aux=True)(params)

    params = jax.device_put(params, param_shardings(params, mesh, RULES))
    images = jax.device_put(images, jax.NamedSharding(mesh, P(BATCH_AXES)))
    return tuple(leaves_by_path(tree) for tree in jax.device_get(step(params, images)))


@pytest.fixture(scope="module")
def one_device(params, images):
    return training_pass(params, images, (1, 1, 1), False)


@pytest.mark.parametrize(
    ("shape", "remat"), [((8, 1, 1), False), ((1, 1, 1), True), ((2, 2, 2), True)]
)
def test_gradients_and_running_statistics_agree(
    one_device, params, images, shape, remat
):
    grads, stats = training_pass(params, images, shape, remat)
    expected_grads, expected_stats = one_device
    before = leaves_by_path(params[BATCH_STATS])
    for path, x in expected_stats.items():
        assert np.abs(x - before[path]).min() > 1e-4, path
        np.testing.assert_allclose(stats[path], x, rtol=1e-5, atol=1e-6, err_msg=path)
    for path, x in expected_grads.items():
        largest = np.abs(x).max()
        if path in WITHOUT_GRADIENT:
            assert largest < 1e-6, path
            continue
        assert largest > 1e-5, path
        atol = TOLERANCE * largest
        np.testing.assert_allclose(grads[path], x, rtol=0, atol=atol, err_msg=path)
