"""From a batch of prepared images to segmentations at the photographs' own sizes."""

from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int

from eomt_jax.inference import geometry, panoptic
from eomt_jax.parallel.mesh import BATCH_AXES, create_mesh
from eomt_jax.parallel.partition import gather_fsdp
from eomt_jax.types import Array, Batch, DatasetInfo


class Runner:
    """Runs the network without masked attention and post-processes its prediction.

    One compiled function serves every original size up to the canvas; the batch is
    split over the mesh's batch axes, each device post-processing its own images.
    """

    def __init__(
        self,
        model: nn.Module,
        info: DatasetInfo,
        *,
        canvas_size: tuple[int, int] | None = None,
        mesh: Mesh | None = None,
        task: str = "panoptic",
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
    ):
        """Prepares the function; compiles at the first call.

        Args:
          model: an EoMT.
          info: of the data set whose classes the model predicts.
          canvas_size: (height, width) that holds every photograph; the data set's
            largest by default.
          mesh: where params live; by default the first device alone.
          task: "panoptic" for now.
          score_threshold: see panoptic_segmentation.
          overlap_threshold: see panoptic_segmentation.
        """
        if task != "panoptic":
            raise ValueError(f'task is {task!r}; this runner knows "panoptic" only')
        self.mesh = mesh or create_mesh(devices=jax.devices()[:1])
        self.canvas_size = canvas_size or info.max_image_size
        self._model = model
        self._is_thing = info.is_thing
        self._thresholds = {
            "score_threshold": score_threshold,
            "overlap_threshold": overlap_threshold,
        }
        self._run = jax.jit(self._predict)

    def __call__(self, params: Any, batch: Batch) -> panoptic.PanopticPrediction:
        """Segments a batch that lies on the mesh.

        Args:
          params: the model's.
          batch: on the mesh (parallel.batch.place_batch) or in host memory; its rows
            must divide evenly over the mesh's batch axes. Targets are not looked at.
        """
        return self._run(params, batch.image, batch.content_size, batch.original_size)

    def _predict(
        self,
        params: Any,
        images: Array,
        content_size: Array,
        original_size: Array,
    ) -> panoptic.PanopticPrediction:
        params = gather_fsdp(params, self.mesh)
        outputs: Any = self._model.apply({"params": params}, images)
        image_size = (images.shape[1], images.shape[2])

        def post_process(
            inputs: tuple[
                Float[Array, "Q h4 w4"],
                Float[Array, "Q K1"],
                Int[Array, " 2"],
                Int[Array, " 2"],
            ],
        ) -> panoptic.PanopticPrediction:
            mask_logits, class_logits, content_size, original_size = inputs
            _, logits_height, logits_width = mask_logits.shape
            restore = geometry.restore_matrices(
                content_size,
                original_size,
                logits_size=(logits_height, logits_width),
                image_size=image_size,
                canvas_size=self.canvas_size,
            )
            return panoptic.panoptic_segmentation(
                mask_logits,
                class_logits,
                restore,
                is_thing=self._is_thing,
                **self._thresholds,
            )

        # Image by image, and each device its own: a map over a sharded axis would
        # otherwise gather the whole batch on every device.
        rows = PartitionSpec(BATCH_AXES)
        return jax.shard_map(
            lambda *inputs: jax.lax.map(post_process, inputs),
            mesh=self.mesh,
            in_specs=rows,
            out_specs=rows,
            check_vma=False,
        )(
            outputs.mask_logits[-1],
            outputs.class_logits[-1],
            content_size,
            original_size,
        )
