"""From a batch of prepared images to segmentations at the photographs' own sizes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int

from eomt_jax.inference import geometry, instance, panoptic
from eomt_jax.inference.instance import InstancePrediction
from eomt_jax.inference.panoptic import PanopticPrediction
from eomt_jax.parallel.mesh import BATCH_AXES, create_mesh
from eomt_jax.parallel.partition import gather_fsdp
from eomt_jax.pipeline.eval_samples import chosen_task
from eomt_jax.types import Array, Batch, DatasetInfo, Outputs

Prediction = PanopticPrediction | InstancePrediction


class Runner:
    """Runs the network without masked attention and post-processes its prediction.

    One compiled function serves every original size up to the canvas; the batch is
    split over the mesh's batch axes, each device post-processing its own images.

    Attributes:
      task: what the predictions are, whatever the model was trained for.
      mesh: where params live.
      canvas_size: (height, width) that holds every photograph.
    """

    def __init__(
        self,
        model: nn.Module,
        info: DatasetInfo,
        *,
        task: str | None = None,
        canvas_size: tuple[int, int] | None = None,
        mesh: Mesh | None = None,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
        num_instances: int = 100,
    ):
        """Prepares the function; compiles at the first call.

        Args:
          model: an EoMT.
          info: of the data set whose classes the model predicts.
          task: "panoptic", "instance" or "semantic"; the data set's own by default.
          canvas_size: (height, width) that holds every photograph; the data set's
            largest by default.
          mesh: where params live; by default the first device alone.
          score_threshold: see panoptic_segmentation.
          overlap_threshold: see panoptic_segmentation.
          num_instances: see instance_segmentation.
        """
        self.task = chosen_task(task, info)
        self.mesh = mesh or create_mesh(devices=jax.devices()[:1])
        self.canvas_size = canvas_size or info.max_image_size
        self._model = model
        self._segment: Callable[..., Prediction]
        if self.task == "instance":
            self._segment = functools.partial(
                instance.instance_segmentation, num_instances=num_instances
            )
        else:
            self._segment = functools.partial(
                panoptic.panoptic_segmentation,
                is_thing=info.is_thing,
                score_threshold=score_threshold,
                overlap_threshold=overlap_threshold,
            )
        self._run = jax.jit(self._predict)

    def __call__(self, params: Any, batch: Batch) -> Prediction:
        """Segments a batch that lies on the mesh.

        Args:
          params: the model's.
          batch: on the mesh (parallel.batch.place_batch) or in host memory, made for
            the runner's task (pipeline.loader.eval_batches); its rows must divide
            evenly over the mesh's batch axes. Targets are not looked at.
        """
        return self._run(params, batch.image, batch.content_size, batch.original_size)

    def _predict(
        self,
        params: Any,
        images: Array,
        content_size: Array,
        original_size: Array,
    ) -> Prediction:
        params = gather_fsdp(params, self.mesh)
        outputs = self._apply(params, images)
        image_size = (images.shape[1], images.shape[2])

        def post_process(
            inputs: tuple[
                Float[Array, "Q h4 w4"],
                Float[Array, "Q K1"],
                Int[Array, " 2"],
                Int[Array, " 2"],
            ],
        ) -> Prediction:
            mask_logits, class_logits, content_size, original_size = inputs
            _, logits_height, logits_width = mask_logits.shape
            restore = geometry.restore_matrices(
                content_size,
                original_size,
                logits_size=(logits_height, logits_width),
                image_size=image_size,
                canvas_size=self.canvas_size,
            )
            return self._segment(mask_logits, class_logits, restore)

        return self._image_by_image(
            post_process,
            outputs.mask_logits[-1],
            outputs.class_logits[-1],
            content_size,
            original_size,
        )

    def _apply(self, params: Any, images: Array) -> Outputs:
        outputs: Any = self._model.apply({"params": params}, images)
        return outputs

    def _image_by_image(
        self, post_process: Callable[..., Prediction], *inputs: Array
    ) -> Prediction:
        """Each device its own images: a map over a sharded axis would otherwise gather
        the whole batch on every device.
        """
        rows = PartitionSpec(BATCH_AXES)
        return jax.shard_map(
            lambda *inputs: jax.lax.map(post_process, inputs),
            mesh=self.mesh,
            in_specs=rows,
            out_specs=rows,
            check_vma=False,
        )(*inputs)
