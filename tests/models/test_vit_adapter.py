"""A ViT-Adapter has the sizes that its authors' has, and fits a ViT or says why not."""

import jax
import jax.numpy as jnp
import pytest

from eomt_jax.models.mask2former import deformable_attention as attention_module
from eomt_jax.models.pyramid import PYRAMID_RULES
from eomt_jax.models.variants import create_vit
from eomt_jax.models.vit import VIT_RULES
from eomt_jax.models.vit_adapter import (
    ADAPTER_RULES,
    ViTAdapter,
    blocks_of,
)
from eomt_jax.parallel.mesh import MeshOptions, create_mesh
from eomt_jax.parallel.partition import PartitionRules, param_shardings
from tests.models.adapter_network import (
    AdapterNetwork,
    small_network,
)


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


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.usefixtures("no_sampling")
@pytest.mark.parametrize(
    ("variant", "num_heads", "value_ratio", "total"),
    [
        ("small", 6, 0.5, 4_353_680),
        ("small", 6, 1.0, 5_830_160),
        ("base", 12, 0.5, 13_680_608),
        ("large", 16, 0.5, 23_236_800),
        ("giant", 24, 0.5, 50_360_960),
    ],
)
def test_number_of_parameters(variant, num_heads, value_ratio, total):
    vit = create_vit(variant, image_size=(32, 64), depth=1)
    model = AdapterNetwork(vit, ViTAdapter(num_heads, value_ratio))
    _, variables = shapes_of(model)
    assert count(variables["params"]["adapter"]) == total
    # The ViT has the parameters of its final norm too.
    plain = jax.eval_shape(
        vit.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.uint8)
    )
    assert variables["params"]["vit"] == plain["params"]


@pytest.mark.parametrize(
    ("depth", "shares"),
    [(12, [3, 3, 3, 3]), (24, [6, 6, 6, 6]), (40, [10] * 4), (6, [1, 2, 1, 2])],
)
def test_blocks_are_split_evenly_and_in_order(depth, shares):
    parts = [list(blocks_of(i, depth)) for i in range(4)]
    assert [len(part) for part in parts] == shares
    assert [i for part in parts for i in part] == list(range(depth))


@pytest.mark.parametrize(
    ("image_size", "adapter", "message"),
    [
        ((48, 64), {}, r"image_size \(height, width\) = \(48, 64\).*multiples of 32"),
        ((32, 32), {"num_heads": 5}, "num_heads = 5 .*can't share 32 channels"),
        ((32, 32), {"value_ratio": 0.3}, "value_ratio = 0.3 .*19.2 channels"),
        ((32, 32), {"mlp_ratio": 0.3}, "mlp_ratio = 0.3 .* 19.2 is no whole number"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(image_size, adapter, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(small_network(image_size, adapter=adapter))


@pytest.mark.usefixtures("no_sampling")
def test_every_parameter_has_a_rule():
    tables = (VIT_RULES, PYRAMID_RULES, ADAPTER_RULES)
    rules = PartitionRules(
        others=sum((table.others for table in tables), ()),
        blocks=sum((table.blocks for table in tables), ()),
    )
    _, variables = shapes_of(small_network())
    mesh = create_mesh(MeshOptions(2, 2, 2))
    shardings = param_shardings(variables["params"], mesh, rules)
    # No rule of other parts of a network is taken for one of the adapter.
    adapter = param_shardings(variables["params"]["adapter"], mesh, ADAPTER_RULES)
    assert shardings["adapter"] == adapter
