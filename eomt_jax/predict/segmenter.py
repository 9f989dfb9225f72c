"""Segments photographs with a trained network; the class for use in programs."""

import functools
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.pipeline.info_sources import open_info, unknown_info
from eomt_jax.predict.explanation import Explanation, explain
from eomt_jax.predict.exported_network import open_export
from eomt_jax.predict.photographs import read_ahead
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.result import Result
from eomt_jax.predict.tiles import tile_note
from eomt_jax.predict.views import View, make_view, segment_views
from eomt_jax.task_registry import get_task
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.load import open_network

_DTYPES = "float32", "bfloat16", "float16", "float64"

_MOST_PIXELS = 1 << 28
"""Most pixels of photographs that are segmented together, of 3 bytes each."""

_BATCHES_TOGETHER = 4
"""Number of batches whose photographs are grouped by shape if padding is skipped."""


class Segmenter:
    """Segments photographs of any size.

    A photograph alone runs alone, several run `batch_size` at a time, a batch at least
    half full filled up: the network is compiled for these two numbers of photographs
    and each size of input that occurs, and the post-processing for each task and
    CANVAS_SIDES. Safe to call from several threads.

    A photograph that isn't square leaves part of the network's input empty.
    `skip_padding=True` computes the part that shows it alone, see TokenGrids: faster,
    but a network that was trained with the padding loses some accuracy.

    A photograph has at most `max_instances` instances, by default as many as the model
    has queries, or 100 if it has fewer. Published scores count the best 100.

    Several queries may find one object. With `nms_iou=0.7`, of instances of one class
    whose masks have a larger IoU than that only the best stays; by default all stay, as
    the published scores count them. Panoptic segments never overlap.

    With `confidence="unnormalized"` the results of semantic and panoptic segmentation
    have a `confidence` for each pixel, which is low where no class covers it; with
    "normalized" it is the best class's share of all classes, see
    postprocess.confidence.

    Attributes:
      info: the class table.
      task: what is made when a call doesn't say.
      network: the model with its compiled programs.
      notes: sentences on the checkpoint that a user should read.
    """

    def __init__(
        self,
        model: Any,
        params: Any,
        info: DatasetInfo,
        *,
        task: str | None = None,
        batch_size: int = 1,
        skip_padding: bool = False,
        max_instances: int | None = None,
        nms_iou: float | None = None,
        confidence: str = "",
        notes: Sequence[str] = (),
    ):
        """Puts the parameters on the first device.

        Args:
          model: a network with a square image_size.
          params: the model's.
          info: of the data set whose classes the model predicts.
          task: "panoptic", "instance", "semantic" or the name of a task of your own;
            the data set's by default.
          batch_size: see the class.
          skip_padding: see the class.
          max_instances: see the class.
          nms_iou: see the class.
          confidence: see the class.
          notes: see the class.

        Raises:
          ValueError: the image size isn't square, the classes aren't as many as the
            model's, there is no such task or kind of confidence, nms_iou isn't between
            0 and 1, or max_instances is less than 1.
        """
        self.info = info
        self.task = get_task(task or info.task).name
        self._warn(get_task(self.task).class_note(info))
        self.notes = tuple(notes)
        self.network = CompiledNetwork(
            model,
            params,
            info,
            batch_size=batch_size,
            max_instances=max_instances,
            nms_iou=nms_iou,
            confidence=confidence,
        )
        self._skip_padding = skip_padding

    @classmethod
    def from_checkpoint(
        cls,
        path: epath.PathLike,
        *,
        backbone: epath.PathLike = "",
        dataset_info: epath.PathLike | DatasetInfo | None = None,
        task: str | None = None,
        image_size: int | None = None,
        dtype: str | None = None,
        batch_size: int = 1,
        skip_padding: bool = False,
        max_instances: int | None = None,
        nms_iou: float | None = None,
        confidence: str = "",
        compilation_cache: epath.PathLike | None = None,
        **overrides: Any,
    ) -> "Segmenter":
        """Creates a segmenter from the weights of any network.

        Args:
          path: whatever eomt_jax.load takes: our own folder or file, the release's
            weights, a Hugging Face folder, file or name.
          backbone: to which the path's weights are a delta, if they are.
          dataset_info: classes, where the checkpoint doesn't tell them or by better
            names: anything that pipeline.info_sources.open_info takes, such as
            "coco_panoptic". Without any they are called class_0, class_1 …, all of
            them are things, and a warning says so.
          task: made when a call doesn't say; what the model was trained for by default.
          image_size: side of the network's input in pixels; the checkpoint's own by
            default.
          dtype: of the computation; float32 on a CPU, else bfloat16 by default.
          batch_size: see the class.
          skip_padding: see the class.
          max_instances: see the class.
          nms_iou: see the class.
          confidence: see the class.
          compilation_cache: folder that keeps compiled programs for the next process;
            that of eomt-predict by default, unless JAX has one already; "" keeps none.
          **overrides: see eomt_jax.load.

        Raises:
          ValueError: see eomt_jax.load, open_info and the class.
        """
        enable_compilation_cache(compilation_cache, min_seconds=0.0)
        if dtype is None:
            dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        elif isinstance(dtype, str) and dtype not in _DTYPES:
            raise ValueError(f"dtype is {dtype!r}; it is one of {', '.join(_DTYPES)}")
        loaded = open_network(
            path,
            backbone=backbone,
            image_size=None if image_size is None else (image_size, image_size),
            dtype=dtype,
            **overrides,
        )
        info = loaded.dataset_info if dataset_info is None else open_info(dataset_info)
        if info is None:
            info = unknown_info(loaded.model.num_classes)
            warnings.warn(
                f"{path} doesn't say what its {len(info.classes)} classes are; they are "
                "called class_0, class_1 … and count as things. Give dataset_info, "
                'such as "coco_panoptic" or a JSON file with the classes',
                stacklevel=2,
            )
        return cls(
            loaded.model,
            loaded.params,
            info,
            task=task,
            batch_size=batch_size,
            skip_padding=skip_padding,
            max_instances=max_instances,
            nms_iou=nms_iou,
            confidence=confidence,
            notes=loaded.notes,
        )

    @classmethod
    def from_export(
        cls,
        folder: epath.PathLike,
        *,
        task: str | None = None,
        batch_size: int = 1,
        max_instances: int | None = None,
        nms_iou: float | None = None,
        compilation_cache: epath.PathLike | None = None,
    ) -> "Segmenter":
        """Creates a segmenter that runs a program of eomt-export.

        Args:
          folder: from eomt-export, with classes and without --batch.
          task: made when a call doesn't say; what the model was trained for by default.
          batch_size: see the class.
          max_instances: see the class.
          nms_iou: see the class.
          compilation_cache: see from_checkpoint.

        Raises:
          ValueError: see open_export and the class, or the folder has no classes.
        """
        enable_compilation_cache(compilation_cache, min_seconds=0.0)
        model, params, info = open_export(folder)
        if info is None:
            raise ValueError(
                f"{folder} doesn't say what its {model.num_classes} classes are: export "
                "it again with --dataset"
            )
        return cls(
            model,
            params,
            info,
            task=task,
            batch_size=batch_size,
            max_instances=max_instances,
            nms_iou=nms_iou,
        )

    def __call__(
        self,
        images: Any,
        *,
        task: str | None = None,
        threshold: float | None = None,
        tile: bool = False,
    ) -> Any:
        """Segments one photograph or several.

        Args:
          images: a path, PIL image or array (see photographs.read_photograph), or a
            list or tuple of these.
          task: as in __init__; the segmenter's own by default. Any model can do each,
            as far as its classes know things; a warning says where they hardly do.
          threshold: score from which on a segment counts: of panoptic segments 0.8, of
            instances 0.5 by default; semantic segmentation has no scores.
          tile: looks at a photograph piece by piece at its own scale instead of fitting
            it into the network's input; see tiles. Not for panoptic segmentation.

        Returns:
          A Result, or a list of them in the order of the photographs.

        Raises:
          ValueError: a photograph can't be read (it is named), there is no such task,
            instances are asked of classes without a thing, or panoptic tiles, or the
            threshold isn't between 0 and 1.
        """
        options: Any = {"task": task, "threshold": threshold, "tile": tile}
        if isinstance(images, list | tuple):
            return list(self.stream(images, **options))
        return next(self.stream([images], num_threads=0, **options))

    def stream(
        self,
        images: Iterable[Any],
        *,
        task: str | None = None,
        threshold: float | None = None,
        tile: bool = False,
        num_threads: int = 4,
        on_damaged: Callable[[Any, ValueError], None] | None = None,
    ) -> Generator[Result, None, None]:
        """Yields results one by one, of more photographs than fit in memory.

        Args:
          images: as in a call; read ahead, two batches at most. Where a batch has
            several photographs, those of four are grouped by shape.
          task: as in a call.
          threshold: as in a call.
          tile: as in a call.
          num_threads: that read photographs; 0 reads where it is called.
          on_damaged: called with a photograph that can't be read, and why; there is no
            result for it. By default that is an error.

        Raises:
          ValueError: as in a call.
        """
        chosen, threshold = self._choose(task, threshold)
        if tile:
            chosen.tile_segmenter()  # raises where there is none
        num_together = self.network.batch_size
        is_fitted = not chosen.windows and not tile
        if num_together > 1 and self._skip_padding and is_fitted:
            num_together *= _BATCHES_TOGETHER
        batch: list[View] = []
        view = functools.partial(
            make_view,
            network=self.network,
            task=chosen.name,
            tile=tile,
            skip_padding=self._skip_padding,
        )
        is_first = True
        for image, read in read_ahead(
            view, images, num_threads=num_threads, depth=2 * self.network.batch_size
        ):
            try:
                batch.append(read())
            except ValueError as error:
                if on_damaged is None:
                    raise
                on_damaged(image, error)
                continue
            if tile and is_first:
                name, size = batch[0].name, batch[0].size
                side = self.network.image_size
                self._warn(tile_note(self.info, side, name=name, size=size))
            is_first = False
            num_pixels = sum(one.pixels[..., 0].size for one in batch)
            if len(batch) == num_together or num_pixels > _MOST_PIXELS:
                yield from self._segment(batch, chosen.name, threshold)
                batch = []
        yield from self._segment(batch, chosen.name, threshold)

    def explain(
        self, image: Any, *, task: str | None = None, threshold: float | None = None
    ) -> Explanation:
        """Shows how the queries of a photograph's segments find them.

        Args:
          image: one photograph, as in a call.
          task: as in a call.
          threshold: as in a call.

        Returns:
          The masks and classes of the segments' queries before each layer with masked
          attention and at the end, where the queries look in these layers, and
          `draw()`, which makes a picture of all.

        Raises:
          ValueError: as in a call.
        """
        chosen, threshold = self._choose(task, threshold)
        view = make_view(
            image,
            self.network,
            task=chosen.name,
            tile=False,
            skip_padding=self._skip_padding,
        )
        return explain(self.network, view, chosen.name, threshold=threshold)

    def warmup(
        self,
        sizes: Iterable[tuple[int, int]] = ((640, 640),),
        *,
        task: str | None = None,
        tile: bool = False,
    ) -> None:
        """Compiles what photographs of these sizes need, alone and in batches.

        Args:
          sizes: (height, width) of photographs as they will come, upright and lying.
          task: as in a call.
          tile: as in a call.
        """
        for height, width in sizes:
            blank = np.zeros((height, width, 3), np.uint8)
            for count in {1, self.network.batch_size}:
                self([blank] * count, task=task, tile=tile)

    def _choose(self, task: str | None, threshold: float | None) -> tuple[Any, float]:
        """Returns the task and the threshold of a call, after checking them."""
        chosen = get_task(task or self.task)
        chosen.check_classes(self.info)
        note = "" if chosen.name == self.task else chosen.class_note(self.info)
        if note:
            warnings.warn(note, stacklevel=3)
        if threshold is None:
            threshold = chosen.threshold
        elif not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; a score lies between 0 and 1")
        return chosen, threshold

    def _warn(self, note: str) -> None:
        if note:
            warnings.warn(note, stacklevel=3)

    def _segment(
        self, views: Sequence[View], task: str, threshold: float
    ) -> Iterator[Result]:
        found = segment_views(self.network, views, task, threshold=threshold)
        for view, segmentation in zip(views, found):
            yield Result(view.pixels, segmentation, self.info, task, view.name)
