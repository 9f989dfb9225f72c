"""The FLOPs of matrix products are counted."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from eomt_jax.benchmark import flops
from eomt_jax.models import variants
from eomt_jax.parallel.mesh import MeshOptions, create_mesh

X = jax.ShapeDtypeStruct((4, 8), "float32")
SQUARE = jax.ShapeDtypeStruct((8, 8), "float32")


def count(function, *arguments, **options):
    return flops.matmul_flops(jax.make_jaxpr(function)(*arguments), **options)


def test_products_batches_and_convolutions():
    assert count(lambda x, w: x @ w, X, SQUARE) == 2 * 4 * 8 * 8
    assert count(lambda x, y: jnp.einsum("bi,bi->b", x, y), X, X) == 2 * 4 * 8
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), "float32")
    kernel = jax.ShapeDtypeStruct((4, 4, 3, 5), "float32")

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert count(convolve, images, kernel) == 2 * (2 * 2 * 2 * 5) * (4 * 4 * 3)


def test_loops_branches_and_what_is_computed_again():
    def scan(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=3)[0]

    assert count(scan, X, SQUARE) == 3 * 512
    assert count(scan, X, SQUARE, loops_once=True) == 512

    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: (x @ w) @ w)

    assert count(branch, X, SQUARE) == 2 * 512

    def loss(w, x):
        return jnp.sin(jnp.sin(x @ w) @ w).sum()

    plain = count(jax.grad(loss), SQUARE, X)
    # There are two products forward, and backward one for x and two for w.
    assert plain == 5 * 512
    assert count(jax.grad(jax.checkpoint(loss)), SQUARE, X) > plain


def test_shards_are_counted_together():
    mesh = create_mesh(MeshOptions(data=2, fsdp=2, tensor=2))
    rows = PartitionSpec(("data", "fsdp"))

    def local(x, w):
        return jax.shard_map(
            lambda x, w: x @ w,
            mesh=mesh,
            in_specs=(rows, PartitionSpec()),
            out_specs=rows,
            check_vma=False,
        )(x, w)

    assert count(local, X, SQUARE) == 512


@pytest.mark.parametrize("training", [False, True])
def test_forward_pass_of_a_published_network(training):
    """The expected FLOPs are worked out by hand for blocks and predictions."""
    model = variants.create_eomt(
        "small", num_classes=133, num_queries=200, image_size=(640, 640)
    )
    dim, patches, plain = 384, 1600, 9
    embed = 2 * patches * 3 * 16 * 16 * dim
    blocks = sum(
        2 * n * dim * (4 * dim + 2 * 1536) + 4 * n * n * dim
        for n in [patches + 5] * plain + [patches + 205] * 3
    )
    upscale = sum(2 * patches * 4**i * dim * 4 * dim for i in range(2))
    heads = 2 * 200 * dim * (3 * dim + 134) + 2 * 200 * 160 * 160 * dim
    expected = embed + blocks + (upscale + heads) * (4 if training else 1)
    found = flops.forward_flops(model, training=training)
    # Only resizing the masks, in training, isn't in the expected number.
    assert expected <= found < 1.02 * expected
