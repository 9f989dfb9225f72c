"""A simple network that segments the colour channels."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from eomt_jax.models.network import Network
from eomt_jax.parallel.partition import PartitionRules
from eomt_jax.types import ClassInfo, DatasetInfo, Outputs

SIZE, CANVAS = 32, (40, 48)
INFO = DatasetInfo(
    name="fake",
    classes=tuple(
        ClassInfo(k + 1, f"class {k}", k < 2, (40 * k, 90, 200)) for k in range(4)
    ),
    max_image_size=CANVAS,
    max_segments=3,
    num_examples={"validation": 8},
)
TRACES = []


class BrightestChannel(Network):
    """A network with a query for each colour channel, masked where it is bright.

    With mask_probs it predicts twice, the first time the masks' opposites and class 2.
    In between, a query attends to each pixel by a thousandth of its brightness.
    """

    @nn.compact
    def __call__(self, images, mask_probs=None, cropped=False):
        TRACES.append(images.shape)
        batch, height, width, _ = images.shape
        shape = (batch, height // 4, 4, width // 4, 4, 3)
        pooled = images.reshape(shape).astype(jnp.float32).mean((2, 4))
        logits = self.param("queries", nn.initializers.zeros, (3, INFO.num_classes + 1))
        masks = jnp.moveaxis(pooled, -1, 1) - 127.0
        classes = jnp.broadcast_to(logits, (batch, *logits.shape))
        if mask_probs is None:
            return Outputs(mask_logits=(masks,), class_logits=(classes,))
        self.make_rng("mask")
        self.sow("intermediates", "brightness", (masks + 127.0) / 1000)
        early = jnp.zeros_like(classes).at[..., 2].set(1.0 + mask_probs[0])
        return Outputs(mask_logits=(-masks, masks), class_logits=(early, classes))

    num_masked_layers = 1
    image_size = (SIZE, SIZE)
    crop_step = 4

    @nn.nowrap
    def partition_rules(self):
        return PartitionRules(others=((r"queries", (None, None)),))

    @nn.nowrap
    def attention_maps(self, intermediates, input_size):
        (brightness,) = intermediates["brightness"]
        assert brightness.shape[-2:] == tuple(side // 4 for side in input_size)
        return [brightness]

    @property
    def num_queries(self):
        return 3

    @property
    def num_classes(self):
        return INFO.num_classes


def channel_params():
    """Returns parameters for classes 0 (red, a thing), 3 (green, stuff), 1 (blue)."""
    classes = np.zeros((3, INFO.num_classes + 1), np.float32)
    classes[[0, 1, 2], [0, 3, 1]] = 5.0, 6.0, 7.0
    return {"queries": classes}
