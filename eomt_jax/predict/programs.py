"""The compiled parts of a prediction: the network, and post-processing by task and size.

A Runner compiles both as one program, for one canvas and batches that are placed on a
mesh. Here they are apart, so that photographs of any size share a network, whatever the
task; semantic segmentation, which looks at all masks, has one of its own on a CPU.

Legend: B batch, Q queries, K classes, S side of the network's input, h4 w4 the mask
logits' size, Hc Wc canvas.
"""

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from eomt_jax.postprocess.confidence import check_kind
from eomt_jax.postprocess.post_processing import post_processing
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.logits import Predictions, all_predictions, last_logits
from eomt_jax.predict.token_grids import TokenGrids
from eomt_jax.task_registry import get_task
from eomt_jax.types import DatasetInfo

CANVAS_SIDES = (640, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576)
"""Post-processing is compiled for these heights and widths alone."""

_WINDOW_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
MAX_WINDOWS = _WINDOW_COUNTS[-1]
"""In semantic segmentation: those of a photograph 32 times as long as wide."""


class CompiledNetwork:
    """A network on the first device, with its compiled programs, for several threads.

    Attributes:
      info: the class table.
      image_size: S, pixels of the network's square input.
      grids: the smaller sizes of input that may be computed instead.
      batch_size: images that run at a time; one alone runs alone.
      nms_iou: see Segmenter; what post_process takes if a call doesn't say.
      confidence: kind of confidence that post-processing adds, or "".
      compile_seconds: spent on compiling so far.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        info: DatasetInfo,
        *,
        batch_size: int,
        max_instances: int | None = None,
        nms_iou: float | None = None,
        confidence: str = "",
    ):
        """Puts the parameters on the device; see Segmenter for what raises."""
        self.grids = TokenGrids.of(model)
        if len(info.classes) != model.num_classes:
            raise ValueError(
                f"{info.name} has {len(info.classes)} classes and the model predicts "
                f"{model.num_classes}: name the data set it was trained on"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if nms_iou is not None and not 0 < nms_iou <= 1:
            raise ValueError(
                f"nms_iou is {nms_iou}; it must be above 0 and at most 1, such as 0.7, or "
                "None to keep duplicates"
            )
        if max_instances is not None and max_instances < 1:
            raise ValueError(
                f"max_instances is {max_instances}; it must be at least 1, or None for as "
                "many as the model has queries"
            )
        check_kind(confidence)
        self.confidence = confidence
        self.info = info
        self.image_size = self.grids.image_size
        self.batch_size = batch_size
        self.compile_seconds = 0.0
        self._model = model
        self._max_instances = max_instances or max(100, model.num_queries)
        self.nms_iou = nms_iou
        params = jax.device_put(params, jax.devices()[0])
        self._params = jax.jit(model.inference_params)(params)
        self._programs: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def logits(
        self, images: Sequence[UInt8[np.ndarray, "H W 3"]], *, factored: bool = False
    ) -> list[tuple[Any, Float[jax.Array, "Q K1"]]]:
        """Returns each image's mask logits [Q, h4, w4] and class logits, on the device.

        Args:
          images: of one size, the network's own or one of `grids`: the top left part of
            an image whose rest is padding.
          factored: see logits.last_logits.
        """
        rows = []
        for begin in range(0, len(images), self.batch_size):
            part = images[begin : begin + self.batch_size]
            size = 1 if len(part) == 1 else self.batch_size
            batch = np.zeros((size, *part[0].shape), np.uint8)
            batch[: len(part)] = part
            network = functools.partial(self._network, factored=factored)
            key = (*batch.shape, factored)
            found = self.run(key, network, self._params, batch)
            rows += found[: len(part)]
        return rows

    def all_predictions(
        self, image: UInt8[np.ndarray, "H W 3"], *, factored: bool = False
    ) -> Predictions:
        """Returns all predictions for an image, on the device.

        Args:
          image: as in `logits`.
          factored: as in `logits`, for the last prediction.
        """
        predict = functools.partial(all_predictions, self._model, factored=factored)
        key = (*image.shape, "all", factored)
        return self.run(key, predict, self._params, image)

    @property
    def masked_layer_names(self) -> tuple[str, ...]:
        """Names of the network's masked layers, each of which follows a prediction."""
        return self._model.masked_layer_names

    def post_process(
        self,
        logits: Sequence[tuple[Any, Any]],
        content_size: tuple[int, int],
        size: tuple[int, int],
        task: str,
        threshold: float,
        *,
        input_size: tuple[int, int] | None = None,
        nms_iou: float | None = None,
    ) -> Segmentation:
        """Segments of one photograph, from the logits of its windows.

        Args:
          logits: from `logits`, of one image or all its windows.
          content_size: (height, width) that the photograph takes in the network's
            input; in windows, of the resized photograph that they are cut from.
          size: (height, width) of the photograph.
          task: what to make.
          threshold: as in a call.
          input_size: (height, width) of the images that the logits come from; the
            network's own by default.
          nms_iou: see Segmenter; the network's own by default.
        """
        nms_iou = self.nms_iou if nms_iou is None else nms_iou
        input_size = input_size or (self.image_size, self.image_size)
        # Windows past the photograph's last are not looked at.
        count = next(n for n in _WINDOW_COUNTS if n >= len(logits))
        canvas_size = _canvas_side(size[0]), _canvas_side(size[1])

        def segment(
            rows: Any,
            content_size: Any,
            original_size: Any,
            threshold: Any,
            nms_iou: Any,
        ) -> Any:
            masks, classes = rows[0]
            if get_task(task).windows:
                masks, classes = (jnp.stack(parts) for parts in zip(*rows))
            prediction = post_processing(
                self.info,
                task,
                canvas_size=canvas_size,
                score_threshold=threshold,
                num_instances=self._max_instances,
                nms_iou=nms_iou,
                confidence=self.confidence,
            )(masks, classes, content_size, original_size, image_size=input_size)
            return jax.tree.map(lambda x: x[None], prediction)

        prediction = self.run(
            (task, canvas_size, count, input_size, nms_iou is None),
            segment,
            [*logits, *[logits[-1]] * (count - len(logits))],
            np.array(content_size, np.int32),
            np.array(size, np.int32),
            np.float32(threshold),
            None if nms_iou is None else np.float32(nms_iou),
        )
        found = get_task(task).segmentation(
            jax.device_get(prediction),
            0,
            size,
            # An instance of score 0 has no pixel or is a duplicate.
            min_score=max(threshold, float(np.finfo(np.float32).tiny)),
        )
        return found.best_first()

    def run(self, key: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """Runs `function`, compiled once for each key.

        Args:
          key: hashable; says all that the program depends on.
          function: pure, of arrays.
          *arguments: its arguments, each time of the same shapes for the same key.
        """
        with self._lock:
            program = self._programs.get(key)
            if program is None:
                begin = time.monotonic()
                program = jax.jit(function).lower(*arguments).compile()
                self._programs[key] = program
                self.compile_seconds += time.monotonic() - begin
        return program(*arguments)

    def _network(
        self, params: Any, images: jax.Array, *, factored: bool
    ) -> list[tuple[Any, Any]]:
        logits = last_logits(
            self._model, params, images, cropped=True, factored=factored
        )
        # Row by row, so that no program of its own takes a row out of a batch.
        return [
            jax.tree.map(lambda leaf, row=row: leaf[row], logits)
            for row in range(len(images))
        ]


def _canvas_side(length: int) -> int:
    """Returns the smallest of CANVAS_SIDES, or multiple of the last, for `length`."""
    last = CANVAS_SIDES[-1]
    return next((s for s in CANVAS_SIDES if s >= length), -(-length // last) * last)
