"""Photographs in, segments with names out: the practitioner's call.

Legend: B batch, N windows, Q queries, K classes, S side of the network's input, h4 w4
the mask logits' size, H W the photograph's pixels.
"""

import functools
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from eomt_jax.inference.network import MAX_WINDOWS, Network
from eomt_jax.inference.photographs import read_ahead, read_photograph
from eomt_jax.inference.result import Result
from eomt_jax.inference.segmentation import Segmentation
from eomt_jax.inference.tiles import segment_tiles
from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.pipeline import transforms
from eomt_jax.pipeline.eval_samples import chosen_task
from eomt_jax.pipeline.info_sources import open_info, unknown_info
from eomt_jax.types import DatasetInfo, Task
from eomt_jax.weights.load import open_eomt

THRESHOLDS: dict[Task, float] = {"panoptic": 0.8, "instance": 0.5, "semantic": 0.0}
"""Scores from which on a segment counts, unless told otherwise."""

_BATCHES_TOGETHER = 4
"""Photographs of so many batches are grouped by shape where padding is skipped."""


class Segmenter:
    """Segments photographs of any size.

    A photograph alone runs alone, several run `batch_size` at a time, a batch at least
    half full filled up: the network is compiled for these two shapes, whatever the task,
    and the post-processing for each task and CANVAS_SIDES. Safe to call from several
    threads.

    Of a photograph that isn't square the network computes the part of its input that
    shows it, see TokenGrids, and compiles for each size of it that occurs. It was trained
    with the padding: `skip_padding=False` computes that too, as evaluations do.

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
        skip_padding: bool = True,
        notes: Sequence[str] = (),
    ):
        """Puts the parameters on the first device.

        Args:
          model: an EoMT with a square image_size.
          params: the model's.
          info: of the data set whose classes the model predicts.
          task: "panoptic", "instance" or "semantic"; the data set's own by default.
          batch_size: see the class.
          skip_padding: see the class.
          notes: see the class.

        Raises:
          ValueError: the image size isn't square, the classes aren't as many as the
            model's, or there is no such task.
        """
        self.info = info
        self.task: Task = chosen_task(task, info)
        self.notes = tuple(notes)
        self.network = Network(model, params, info, batch_size=batch_size)
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
        skip_padding: bool = True,
        compilation_cache: epath.PathLike = "",
        **overrides: Any,
    ) -> "Segmenter":
        """A segmenter from any EoMT weights.

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
          compilation_cache: folder that keeps compiled programs for the next process,
            such as "~/.cache/eomt_jax"; "" keeps none.
          **overrides: see eomt_jax.load.

        Raises:
          ValueError: see eomt_jax.load, open_info and the class.
        """
        enable_compilation_cache(compilation_cache, min_seconds=0.0)
        if dtype is None:
            dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        loaded = open_eomt(
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
            notes=loaded.notes,
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
          task: "panoptic", "instance" or "semantic"; the segmenter's own by default.
            Any model can do each, as far as its classes know things.
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
        """Results one by one, of more photographs than fit in memory.

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
        chosen = self._checked_task(task)
        if tile and chosen == "panoptic":
            raise ValueError(
                "panoptic segmentation can't be put together from tiles: a segment of "
                "stuff that a tile cuts is not the same one in the next; ask for the "
                "semantic or the instance task"
            )
        if threshold is None:
            threshold = THRESHOLDS[chosen]
        elif not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; a score lies between 0 and 1")
        num_together = self.network.batch_size
        if num_together > 1 and self._skip_padding:
            num_together *= _BATCHES_TOGETHER
        batch: list[_View] = []
        view = functools.partial(self._view, task=chosen, tile=tile)
        for image, read in read_ahead(
            view, images, num_threads=num_threads, depth=2 * self.network.batch_size
        ):
            try:
                batch.append(read())
            except ValueError as error:
                if on_damaged is None:
                    raise
                on_damaged(image, error)
            if len(batch) == num_together:
                yield from self._segment(batch, chosen, threshold)
                batch = []
        yield from self._segment(batch, chosen, threshold)

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

    def _checked_task(self, task: str | None) -> Task:
        chosen = chosen_task(task or self.task, self.info)
        if chosen == "instance" and not self.info.is_thing.any():
            raise ValueError(
                f"none of the classes of {self.info.name} are things, so there are no "
                "instances to find: ask for panoptic or semantic segmentation"
            )
        return chosen

    def _view(self, image: Any, *, task: Task, tile: bool) -> "_View":
        """The photograph, and what the network is to see of it."""
        pixels = read_photograph(image)
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
        if tile:
            return _View(name, pixels)
        height, width, _ = pixels.shape
        photograph, size = Image.fromarray(pixels), self.network.image_size
        if task != "semantic":
            content_size = transforms.fit_size(height, width, size)
            fitted = transforms.fit_image(photograph, size)
            return _View(name, pixels, [fitted], content_size)
        content_size = transforms.cover_size(height, width, size)
        count = transforms.num_windows(max(content_size), size)
        if count > MAX_WINDOWS:
            raise ValueError(
                f"{name or 'a photograph'} of {height} × {width} pixels takes {count} "
                f"windows; at most {MAX_WINDOWS} are looked at: cut it into parts"
            )
        windows = transforms.cut_windows(photograph, size, count)
        return _View(name, pixels, list(windows), content_size)

    def _segment(
        self, views: Sequence["_View"], task: Task, threshold: float
    ) -> Iterator[Result]:
        if task == "semantic" or not all(view.windows for view in views):
            found = self._segment_windows(views, task, threshold)
        else:
            found = self._segment_fitted(views, task, threshold)
        for view, segmentation in zip(views, found):
            yield Result(view.pixels, segmentation, self.info, task, view.name)

    def _segment_windows(
        self, views: Sequence["_View"], task: Task, threshold: float
    ) -> Iterator[Segmentation]:
        """Photographs that were cut into windows, or are looked at in tiles."""
        rows = self.network.logits(
            [window for view in views for window in view.windows]
        )
        for view in views:
            logits, rows = rows[: len(view.windows)], rows[len(view.windows) :]
            if view.windows:
                yield self.network.post_process(
                    logits, view.content_size, view.pixels.shape[:2], task, threshold
                )
            else:
                yield segment_tiles(
                    self.network, view.pixels, task, threshold=threshold
                )

    def _segment_fitted(
        self, views: Sequence["_View"], task: Task, threshold: float
    ) -> list[Segmentation]:
        """Photographs that were fitted into the network's input, shape by shape.

        What is predicted of one doesn't depend on which others come with it.
        """
        places: dict[tuple[int, int], list[int]] = {}
        for i, view in enumerate(views):
            places.setdefault(self._input_size(view.content_size), []).append(i)
        found: dict[int, Segmentation] = {}
        for size, of_size in places.items():
            for batch in _split(of_size, self.network.batch_size):
                images = [views[i].windows[0][: size[0], : size[1]] for i in batch]
                rows = self.network.logits(images, factored=True)
                for i, logits in zip(batch, rows):
                    view = views[i]
                    found[i] = self.network.post_process(
                        [logits],
                        view.content_size,
                        view.pixels.shape[:2],
                        task,
                        threshold,
                        input_size=size,
                    )
        return [found[i] for i in range(len(views))]

    def _input_size(self, content_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what the network computes for a fitted photograph."""
        if self._skip_padding:
            return self.network.grids.smallest(content_size)
        return self.network.image_size, self.network.image_size


def _split(places: Sequence[int], batch_size: int) -> Iterator[Sequence[int]]:
    """Batches; what would fill less than half of the last one goes one by one."""
    for begin in range(0, len(places), batch_size):
        batch = places[begin : begin + batch_size]
        if 2 * len(batch) < batch_size:
            yield from ([place] for place in batch)
        else:
            yield batch


class _View(NamedTuple):
    """A photograph, and what the network is to see of it.

    Attributes:
      name: of its file.
      pixels: RGB.
      windows: the network's inputs; none of a photograph that is looked at in tiles.
      content_size: (height, width) of the resized photograph.
    """

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    windows: Sequence[UInt8[np.ndarray, "S S 3"]] = ()
    content_size: tuple[int, int] = (0, 0)
