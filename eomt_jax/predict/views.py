"""Prepares photographs for the network, and brings its output back to their pixels.

Legend: H W the photograph's pixels, S side of the network's input, h w of the part of it
that is computed.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from eomt_jax.pipeline import transforms
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.photographs import read_photograph
from eomt_jax.predict.programs import MAX_WINDOWS, CompiledNetwork
from eomt_jax.task_registry import get_task


class View(NamedTuple):
    """Holds a photograph and the windows of it that the network gets.

    Attributes:
      name: of its file.
      pixels: RGB.
      windows: the network's inputs, square but for a photograph that was fitted; none
        of a photograph that is looked at in tiles.
      content_size: (height, width) of the resized photograph.
    """

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    windows: Sequence[UInt8[np.ndarray, "h w 3"]] = ()
    content_size: tuple[int, int] = (0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Returns (height, width) of the photograph."""
        height, width, _ = self.pixels.shape
        return height, width


def make_view(
    image: Any, network: CompiledNetwork, *, task: str, tile: bool, skip_padding: bool
) -> View:
    """Reads a photograph and prepares it.

    Args:
      image: see photographs.read_photograph.
      network: that is to see it.
      task: what is to be made.
      tile: whether it is looked at piece by piece.
      skip_padding: whether a fitted photograph's padding is left out.

    Raises:
      ValueError: it can't be read, or takes too many windows.
    """
    pixels = read_photograph(image)
    name = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
    if tile:
        return View(name, pixels)
    height, width, _ = pixels.shape
    photograph, side = Image.fromarray(pixels), network.image_size
    if not get_task(task).windows:
        content_size = transforms.fit_size(height, width, side)
        fitted = transforms.fit_image(photograph, side)
        if skip_padding:
            rows, columns = network.grids.smallest(content_size)
            fitted = fitted[:rows, :columns]
        return View(name, pixels, [fitted], content_size)
    content_size = transforms.cover_size(height, width, side)
    count = transforms.num_windows(max(content_size), side)
    if count > MAX_WINDOWS:
        raise ValueError(
            f"{name or 'a photograph'} of {height} × {width} pixels takes {count} "
            f"windows; at most {MAX_WINDOWS} are looked at: cut it into parts"
        )
    windows = transforms.cut_windows(photograph, side, count)
    return View(name, pixels, list(windows), content_size)


def segment_views(
    network: CompiledNetwork, views: Sequence[View], task: str, *, threshold: float
) -> Iterable[Segmentation]:
    """Returns segmentations of photographs whose views were made for the task.

    Args:
      network: the model.
      views: all of them in tiles or none.
      task: what to make.
      threshold: score from which on a segment counts.
    """
    if not all(view.windows for view in views):
        segment = get_task(task).tile_segmenter()
        return (segment(network, view.pixels, threshold=threshold) for view in views)
    if get_task(task).windows:
        return _segment_windows(network, views, task, threshold)
    return _segment_fitted(network, views, task, threshold)


def _segment_windows(
    network: CompiledNetwork, views: Sequence[View], task: str, threshold: float
) -> Iterator[Segmentation]:
    rows = network.logits([window for view in views for window in view.windows])
    for view in views:
        logits, rows = rows[: len(view.windows)], rows[len(view.windows) :]
        yield network.post_process(
            logits, view.content_size, view.size, task, threshold
        )


def _segment_fitted(
    network: CompiledNetwork, views: Sequence[View], task: str, threshold: float
) -> list[Segmentation]:
    """Segments inputs of one size together, so that results don't depend on others."""
    places: dict[tuple[int, ...], list[int]] = {}
    for i, view in enumerate(views):
        places.setdefault(view.windows[0].shape[:2], []).append(i)
    found: dict[int, Segmentation] = {}
    for batch in _batches(places.values(), network.batch_size):
        images = [views[i].windows[0] for i in batch]
        rows = network.logits(images, factored=True)
        for i, logits in zip(batch, rows, strict=True):
            height, width, _ = views[i].windows[0].shape
            found[i] = network.post_process(
                [logits],
                views[i].content_size,
                views[i].size,
                task,
                threshold,
                input_size=(height, width),
            )
    return [found[i] for i in range(len(views))]


def _batches(groups: Iterable[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yields batches of each group; less than half a batch goes one by one."""
    for group in groups:
        for begin in range(0, len(group), batch_size):
            batch = list(group[begin : begin + batch_size])
            if 2 * len(batch) < batch_size:
                yield from ([place] for place in batch)
            else:
                yield batch
