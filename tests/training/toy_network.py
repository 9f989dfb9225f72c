"""A network unlike EoMT, of convolutions with batch statistics and a masked decoder."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from eomt_jax.models.network import Network, ParameterGroup, ParameterGroups
from eomt_jax.parallel.partition import PartitionRules
from eomt_jax.types import Outputs

NUM_LAYERS = 3


class Stage(nn.Module):
    """Convolution, batch normalisation and ReLU."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3), strides=self.stride, name="filter")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x)
        return nn.relu(x)


class ToyNetwork(Network):
    width: int
    num_classes: int
    num_queries: int
    image_size: tuple[int, int]
    dtype: Any = jnp.float32

    query_params: ClassVar[tuple[str, ...]] = ("seeds",)
    class_head_name: ClassVar[str] = "decoder/label"

    @property
    def num_masked_layers(self):
        return NUM_LAYERS

    @nn.compact
    def __call__(self, images, mask_probs=None, rows=None, *, train=False):
        x = images.astype(jnp.float32) / 255 - 0.5
        x = Stage(self.width, 2, name="stage0")(x, train)
        x = Stage(self.width, 2, name="stage1")(x, train)
        init = nn.initializers.normal(1.0)
        seeds = self.param("seeds", init, (self.num_queries, self.width))
        queries = jnp.broadcast_to(seeds, (len(x), *seeds.shape))
        decoder = Decoder(self.num_classes, name="decoder")
        if mask_probs is None:
            return decoder(x, queries, None)
        rows = jnp.arange(len(x)) if rows is None else rows
        key = self.make_rng("mask")
        draws = jax.vmap(
            lambda row: jax.random.uniform(
                jax.random.fold_in(key, row), (NUM_LAYERS, self.num_queries)
            )
        )(rows)
        return decoder(x, queries, draws < mask_probs[:, None])

    @nn.nowrap
    def parameter_groups(self, params):
        def group(path):
            scope = path.partition("/")[0]
            if scope.startswith("stage"):
                return ParameterGroup("stages", int(scope[-1]))
            return ParameterGroup(scope)

        return ParameterGroups.of(params, group, num_blocks=2)

    @nn.nowrap
    def partition_rules(self):
        return PartitionRules(
            others=(
                (r"filter/kernel", (None, None, None, "fsdp")),
                (r"(filter|bn)/(bias|scale)", (None,)),
                (r"seeds", (None, "fsdp")),
                (r"(layer\d|label)/kernel", ("fsdp", None)),
                (r"(layer\d|label)/bias", (None,)),
            )
        )


class Decoder(nn.Module):
    """Adds to each query the mean of the pixels that it sees, three times."""

    num_classes: int

    @nn.compact
    def __call__(self, pixels, queries, masked: Any):
        label = nn.Dense(self.num_classes + 1, name="label")
        masks, labels = [], []
        for i in range(NUM_LAYERS):
            logits = jnp.einsum("bqc,byxc->bqyx", queries, pixels)
            seen = jnp.ones_like(logits, bool)
            if masked is not None:
                masks.append(logits)
                labels.append(label(queries))
                seen = (logits > 0) | ~masked[:, i, :, None, None]
            weights = seen / jnp.maximum(seen.sum((2, 3), keepdims=True), 1)
            mean = jnp.einsum("bqyx,byxc->bqc", weights, pixels)
            queries = queries + nn.Dense(queries.shape[-1], name=f"layer{i}")(mean)
        masks.append(jnp.einsum("bqc,byxc->bqyx", queries, pixels))
        labels.append(label(queries))
        return Outputs(mask_logits=tuple(masks), class_logits=tuple(labels))


def create_toy(*, num_classes, num_queries, image_size, **_):
    return ToyNetwork(8, num_classes, num_queries, image_size)
