"""The contract between a network and everything around it.

Training, evaluation, prediction, weights, benchmarks and export use a network only by
this contract. They name neither its class nor its parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from eomt_jax.parallel.partition import PartitionRules
from eomt_jax.trees import leaf_path
from eomt_jax.types import Outputs

PyTree = Any


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """The group of one parameter.

    Attributes:
      name: the group's row in the report of what was loaded, such as "vit blocks".
      depth: the parameter's place in the pre-trained backbone: -1 for embeddings, 0 for
        the first block, and so on; the number of blocks for layers after the last one.
        None outside the backbone.
    """

    name: str
    depth: int | None = None


@dataclasses.dataclass(frozen=True)
class ParameterGroups:
    """The group of every parameter.

    Attributes:
      tree: a ParameterGroup for each parameter, in a tree like theirs.
      num_blocks: number of blocks of the backbone; 0 without a backbone.
    """

    tree: PyTree
    num_blocks: int

    @classmethod
    def of(
        cls, params: PyTree, group: Callable[[str], ParameterGroup], num_blocks: int
    ) -> "ParameterGroups":
        """Calls `group` with the path of every parameter, such as "head/kernel"."""
        tree = jax.tree_util.tree_map_with_path(
            lambda path, _: group(leaf_path(path)),
            params,
        )
        return cls(tree, num_blocks)


class Network(nn.Module):
    """Base class of networks, which predict a mask and a class for each query.

    A subclass has the fields or properties `num_classes`, `num_queries`, `image_size`,
    `dtype` and `num_masked_layers`, and implements `__call__` and everything below that
    raises NotImplementedError. Its fields are numbers, texts, tuples and modules of such
    fields, so that model.json can hold them.

    Attributes:
      num_classes: K, without "no object".
      num_queries: Q.
      image_size: (height, width) in pixels of the images that the network takes.
      dtype: type of activations.
      num_masked_layers: layers with masked attention, each of which adds a prediction
        in training.
      backbone_name: the field, and the scope of the parameters, of a ViT that may be
        pre-trained; empty for a network without one.
      query_params: paths of parameters that have one row for each query. They are cut or
        extended if a checkpoint has another number of queries.
      class_head_name: path of the layer whose last axis is the classes, "no object" last.
      has_mask_factors: whether `__call__` takes `factored`.
      masked_inference: optional field: whether a call without mask_probs masks
        attention in all masked layers. A network without this field never does.
    """

    if TYPE_CHECKING:
        # These are for type checkers: a property here would be a field's default.
        num_classes: int
        num_queries: int

        @property
        def image_size(self) -> tuple[int, int]: ...

        @property
        def dtype(self) -> Any: ...

        @property
        def num_masked_layers(self) -> int: ...

    backbone_name: ClassVar[str] = ""
    query_params: ClassVar[tuple[str, ...]] = ()
    class_head_name: ClassVar[str] = "class_head"
    has_mask_factors: ClassVar[bool] = False

    @property
    def crop_step(self) -> int:
        """Pixels by which a cropped image may be smaller; 0 if none can be cropped."""
        return 0

    @property
    def masked_layer_names(self) -> tuple[str, ...]:
        """Names of the masked layers in pictures, first to last."""
        return tuple(f"layer {i + 1}" for i in range(self.num_masked_layers))

    @property
    def backbone(self) -> Any:
        """The ViT that may be pre-trained; None for a network without one."""
        return getattr(self, self.backbone_name) if self.backbone_name else None

    @nn.nowrap
    def with_backbone(self, vit: Any) -> Any:
        """Returns this network with another ViT in the place of its backbone."""
        fields: dict[str, Any] = {self.backbone_name: vit}
        return self.clone(**fields)

    @nn.nowrap
    def with_masked_inference(self, masked: bool) -> Any:
        """Returns this network, which predicts with masked attention or without.

        Raises:
          ValueError: masked attention is asked for, and the network's class has none in
            inference.
        """
        fields: dict[str, Any] = {"masked_inference": masked}
        if "masked_inference" in {field.name for field in dataclasses.fields(self)}:
            return self.clone(**fields)
        if masked:
            raise ValueError(
                f"a {type(self).__name__} has no masked attention in inference: leave "
                "config.model.inference empty"
            )
        return self

    def draw_for_masking(
        self, batch: int, rows: Int[Array, " B"] | None
    ) -> Float[Array, "B Q"]:
        """Draws U(0, 1) for each (image, query), another at each call.

        A pair is masked where its number is below the layer's probability: then a
        probability of 0 never masks and 1 always does.

        Args:
          batch: B.
          rows: see `__call__`; an image's numbers depend on the rng and its row alone.

        Raises:
          ValueError: the caller passed no rng stream "mask".
        """
        if not self.has_rng("mask"):
            raise ValueError(
                "Masked attention draws which queries are masked: call apply with "
                'rngs={"mask": key}.'
            )
        key = self.make_rng("mask")

        def draw(row: Int[Array, ""]) -> Float[Array, " Q"]:
            return jax.random.uniform(jax.random.fold_in(key, row), (self.num_queries,))

        return jax.vmap(draw)(jnp.arange(batch) if rows is None else rows)

    def __call__(
        self,
        images: UInt8[Array, "B H W 3"],
        mask_probs: Float[Array, " L"] | None = None,
        rows: Int[Array, " B"] | None = None,
        *,
        train: bool = False,
    ) -> Outputs:
        """Predicts masks and classes.

        Args:
          images: RGB, 0 to 255; normalisation happens inside.
          mask_probs: for each masked layer the probability that an (image, query) pair
            is masked in it. None predicts once, as in inference, without masked
            attention unless the network has masked_inference; otherwise the rng stream
            "mask" is needed and there is a prediction before each of these layers too.
          rows: the images' places in the global batch, which decide with the rng which
            queries are masked; by default the images are the whole batch.
          train: whether batch statistics are those of this batch, and updated.

        A network whose `crop_step` is not 0 takes `cropped` too: whether images may be
        smaller than image_size by multiples of it. One with `has_mask_factors` takes
        `factored`: whether the last prediction's mask logits are left as MaskFactors.

        Returns:
          Outputs with 1 or num_masked_layers + 1 predictions.
        """
        raise NotImplementedError

    @nn.nowrap
    def parameter_groups(self, params: PyTree) -> ParameterGroups:
        """Returns the group of every parameter; `params` may be shapes."""
        raise NotImplementedError

    @nn.nowrap
    def partition_rules(self) -> PartitionRules:
        """Returns the table of where each parameter lies on a mesh."""
        raise NotImplementedError

    @nn.nowrap
    def like(self, stored: Any, *, num_masked_layers: int = 0) -> Any:
        """Returns this network with the structure of one whose parameters are loaded.

        Sizes of images, classes, queries and dtype stay its own.

        Args:
          stored: the network of the same class that the parameters were saved with.
          num_masked_layers: the wanted number; 0 takes that of `stored`.
        """
        del stored, num_masked_layers
        return self

    @nn.nowrap
    def attention_maps(
        self, intermediates: PyTree, input_size: tuple[int, int]
    ) -> list[Float[Array, "B Q h w"]]:
        """Returns how much queries attend to patches in each masked layer.

        Args:
          intermediates: flax's collection of this name, from a call with mask_probs.
          input_size: (height, width) of the images.

        Returns:
          Weights averaged over heads; nothing for a network that leaves none.
        """
        del intermediates, input_size
        return []

    @nn.nowrap
    def inference_params(self, params: PyTree) -> PyTree:
        """Returns parameters in the form in which a call of inference is fastest.

        Args:
          params: the network's parameters, in float32; call this under jit, on devices
            like those of the calls.
        """
        return params
