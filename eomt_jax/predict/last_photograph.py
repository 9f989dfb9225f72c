"""Segments one photograph with several thresholds and tasks."""

import os
import pathlib
import time
from typing import Any, NamedTuple

import jax

from eomt_jax.predict.photographs import decode_photograph
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.result import Result
from eomt_jax.predict.views import View, make_view
from eomt_jax.task_registry import get_task


class _Seen(NamedTuple):
    """Holds what the network said of a photograph."""

    key: tuple[str, bool]
    view: View
    logits: list[tuple[Any, Any]]


class LastPhotograph:
    """Segments photographs and keeps the network's output of the last one.

    Other thresholds then need the post-processing alone. So does another task that looks
    at a photograph in the same way: panoptic and instance segmentation fit it into the
    network's input, semantic segmentation cuts it into windows. Not for several threads.

    Attributes:
      network_seconds: how long the network took in the last call, without compiling; 0
        if its output was kept.
    """

    def __init__(
        self,
        network: CompiledNetwork,
        *,
        skip_padding: bool = False,
        max_pixels: int | None = None,
    ):
        """Keeps nothing yet.

        Args:
          network: the model with its programs.
          skip_padding: see Segmenter.
          max_pixels: see decode_photograph.
        """
        self.network_seconds = 0.0
        self._network = network
        self._skip_padding = skip_padding
        self._max_pixels = max_pixels
        self._seen: _Seen | None = None

    def __call__(
        self,
        path: str | os.PathLike[str],
        *,
        task: str,
        threshold: float,
        nms_iou: float | None = None,
    ) -> Result:
        """Returns the segments of a photograph.

        Args:
          path: of a local file that doesn't change.
          task: name of the task.
          threshold: score from which on a segment counts.
          nms_iou: see Segmenter; the network's own by default.

        Raises:
          ValueError: see decode_photograph, or it takes too many windows.
        """
        key = os.fspath(path), get_task(task).windows
        self.network_seconds = 0.0
        if self._seen is None or self._seen.key != key:
            # The memory is free before it is needed again.
            self._seen = None
            self._seen = self._look(key, task)
        _, view, logits = self._seen
        height, width, _ = view.windows[0].shape
        segmentation = self._network.post_process(
            logits,
            view.content_size,
            view.size,
            task,
            threshold,
            input_size=(height, width),
            nms_iou=nms_iou,
        )
        return Result(view.pixels, segmentation, self._network.info, task, view.name)

    def _look(self, key: tuple[str, bool], task: str) -> _Seen:
        path, in_windows = pathlib.Path(key[0]), key[1]
        pixels = decode_photograph(
            path.read_bytes(), path.name, max_pixels=self._max_pixels
        )
        view = make_view(
            pixels,
            self._network,
            task=task,
            tile=False,
            skip_padding=self._skip_padding,
        )
        begin, compiled = time.monotonic(), self._network.compile_seconds
        logits = self._network.logits(view.windows, factored=not in_windows)
        jax.block_until_ready(logits)
        compiling = self._network.compile_seconds - compiled
        self.network_seconds = time.monotonic() - begin - compiling
        return _Seen(key, view._replace(name=path.name), logits)
