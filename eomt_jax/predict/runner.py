"""Segments batches of prepared images at the photographs' own sizes."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int, UInt8

from eomt_jax.models.network import Network
from eomt_jax.parallel.mesh import BATCH_AXES, batch_sharding, create_mesh
from eomt_jax.pipeline import transforms
from eomt_jax.postprocess.confidence import check_kind
from eomt_jax.postprocess.post_processing import post_processing
from eomt_jax.predict.logits import is_one_cpu, last_logits
from eomt_jax.predict.token_grids import TokenGrids, regroup
from eomt_jax.task_registry import get_task
from eomt_jax.types import Array, Batch, DatasetInfo


class Runner:
    """Runs the network as in inference and post-processes its prediction.

    One compiled function serves every original size up to the canvas; the batch is
    split over the mesh's batch axes, each device post-processing its own images. Where
    padding is skipped there is one function for each size of input, see TokenGrids.

    Attributes:
      task: what the predictions are, whatever the model was trained for.
      mesh: where params live.
      canvas_size: (height, width) that holds every photograph.
    """

    def __init__(
        self,
        model: Network,
        info: DatasetInfo,
        *,
        task: str | None = None,
        canvas_size: tuple[int, int] | None = None,
        mesh: Mesh | None = None,
        score_threshold: float | None = None,
        overlap_threshold: float = 0.8,
        num_instances: int = 100,
        skip_padding: bool = False,
        confidence: str = "",
    ):
        """Prepares the function; compiles at the first call.

        Args:
          model: the network.
          info: of the data set whose classes the model predicts.
          task: "panoptic", "instance", "semantic" or the name of a task of your own;
            the data set's by default.
          canvas_size: (height, width) that holds every photograph; the data set's
            largest by default.
          mesh: where params live; by default the first device alone.
          score_threshold: see panoptic_segmentation; the task's own by default.
          overlap_threshold: see panoptic_segmentation.
          num_instances: see instance_segmentation.
          skip_padding: computes only the part of the network's input that holds a
            batch's photographs, see `regroup`. The network was trained with the
            padding's tokens, so predictions differ a little. Windows have no padding
            to skip.
          confidence: kind of confidence that predictions have too, see
            confidence.KINDS; "" for none.

        Raises:
          ValueError: there is no such task or kind of confidence, or padding is to be skipped on a mesh of
            several processes.
        """
        chosen = get_task(task or info.task)
        check_kind(confidence)
        if score_threshold is None:
            score_threshold = chosen.threshold
        self.task = chosen.name
        self._in_windows = chosen.windows
        self.mesh = mesh or create_mesh(devices=jax.devices()[:1])
        self.canvas_size = canvas_size or info.max_image_size
        self._model = model
        self._segment = post_processing(
            info,
            self.task,
            canvas_size=self.canvas_size,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
            num_instances=num_instances,
            confidence=confidence,
        )
        self._run = jax.jit(self._predict, static_argnames="input_size")
        self._grids: TokenGrids | None = None
        if skip_padding and not self._in_windows:
            if self.mesh.is_multi_process:
                raise ValueError(
                    "skip_padding in several processes, none of which sees all "
                    "photographs: set eval.skip_padding to False or evaluate in one"
                )
            self._grids = TokenGrids.of(model)

    def regroup(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Returns the same photographs in the batches that are predicted fastest.

        If padding is skipped, photographs of one shape come together, in another order;
        on a single CPU, which computes one after the other, each comes alone.

        Args:
          batches: in host memory.
        """
        if self._grids is None:
            return batches
        batch_size = 1 if is_one_cpu(self.mesh) else None
        return regroup(batches, self._grids, batch_size=batch_size)

    def __call__(self, params: Any, batch: Batch) -> Any:
        """Segments a batch that lies on the mesh.

        Args:
          params: the model's.
          batch: on the mesh (parallel.batch.place_batch) or in host memory, made for
            the runner's task (pipeline.loader.eval_batches); its rows must divide
            evenly over the mesh's batch axes. Targets are not looked at.

        Raises:
          ValueError: the batch is made for another task.
        """
        if (batch.image.ndim == 5) is not self._in_windows:
            raise ValueError(
                f"images of shape {batch.image.shape} are not made for the task "
                f"{self.task!r}: only a task in windows, as semantic segmentation is, takes "
                "[B, windows, S, S, 3]; give eval_batches the runner's task"
            )
        size = None
        if self._grids is not None:
            content_sizes = np.asarray(batch.content_size)[np.asarray(batch.valid)]
            size = self._grids.smallest(*content_sizes.tolist())
        return self._run(*self._arguments(params, batch), input_size=size)

    def trace(self, params: Any, batch: Batch) -> jax.stages.Traced:
        """Returns the traced function, for arguments that are shapes alone.

        Args:
          params: jax.ShapeDtypeStructs with shardings.
          batch: likewise, as `__call__` takes it.
        """
        return self._run.trace(*self._arguments(params, batch))

    def _arguments(self, params: Any, batch: Batch) -> tuple[Any, ...]:
        return params, batch.image, batch.content_size, batch.original_size

    def _predict(
        self,
        params: Any,
        images: Array,
        content_size: Array,
        original_size: Array,
        *,
        input_size: tuple[int, int] | None = None,
    ) -> Any:
        logits: Any
        if self._in_windows:
            logits = self._apply_windows(params, images, content_size)
        else:
            cropped = input_size is not None
            if cropped:
                images = images[:, : input_size[0], : input_size[1]]
            logits = last_logits(
                self._model,
                params,
                images,
                mesh=self.mesh,
                cropped=cropped,
                factored=True,
            )
        return self._image_by_image(
            functools.partial(self._segment, image_size=images.shape[-3:-1]),
            *logits,
            content_size,
            original_size,
        )

    def _apply_windows(
        self,
        params: Any,
        images: UInt8[Array, "B N S S 3"],
        content_size: Int[Array, "B 2"],
    ) -> tuple[Float[Array, "B N Q h4 w4"], Float[Array, "B N Q K1"]]:
        """Runs as many windows as the batch's longest photograph has."""
        batch_size, max_windows, size, _, _ = images.shape
        sharding = batch_sharding(self.mesh)

        def window_logits(j: Array) -> Any:
            return last_logits(self._model, params, images[:, j], mesh=self.mesh)

        def add_window(j: Array, logits: tuple[Array, Array]) -> tuple[Array, Array]:
            logits = jax.tree.map(
                lambda all_, one: all_.at[:, j].set(one), logits, window_logits(j)
            )
            return jax.lax.with_sharding_constraint(logits, sharding)

        zeros = jax.tree.map(
            lambda one: jnp.zeros((batch_size, max_windows, *one.shape[1:]), one.dtype),
            jax.eval_shape(window_logits, jnp.int32(0)),
        )
        zeros = jax.lax.with_sharding_constraint(zeros, sharding)
        count = transforms.num_windows(content_size.max(), size)
        return jax.lax.fori_loop(0, count, add_window, zeros)

    def _image_by_image(self, segment: Callable[..., Any], *inputs: Any) -> Any:
        """Lets each device segment its own images.

        A map over a sharded axis would otherwise gather the batch on every device.
        """
        rows = PartitionSpec(BATCH_AXES)
        return jax.shard_map(
            lambda *inputs: jax.lax.map(lambda image: segment(*image), inputs),
            mesh=self.mesh,
            in_specs=rows,
            out_specs=rows,
            check_vma=False,
        )(*inputs)
