"""A panoptic evaluation by transformers and PyTorch, with panopticapi's rules."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from eomt_jax.benchmark.evaluation import Score
from eomt_jax.benchmark.torch_rival import Rival
from eomt_jax.losses.options import CriterionOptions
from eomt_jax.models.network import Network
from eomt_jax.pipeline.samples import Source, load


class TorchEvaluation:
    """Evaluates photographs one by one by transformers' image processor and network.

    The metric is counted on id maps in memory. panopticapi itself reads PNG files,
    which would have to be written first.

    Attributes:
      parts: seconds of each part of every call.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        source: Source,
        *,
        num_images: int,
        image_size: int,
        score_threshold: float,
        device: str,
        dtype: Any,
    ):
        """
        Args:
          network: called as network(pixel_values=…).
          source: a split with panoptic annotations.
          num_images: how many images are evaluated, the first of the split.
          image_size: side of the network's square input.
          score_threshold: score that a query must exceed.
          device: torch's device of the network.
          dtype: torch's dtype of the network.
        """
        import transformers

        size = {"shortest_edge": image_size, "longest_edge": image_size}
        self._processor = transformers.EomtImageProcessorPil(size=size, do_pad=True)
        self._network, self._source, self._num_images = network, source, num_images
        self._stuff = [i for i, c in enumerate(source.info.classes) if not c.is_thing]
        self._threshold = score_threshold
        self._device, self._dtype = device, dtype
        self.parts: list[dict[str, float]] = []

    def __call__(self) -> Score:
        import torch

        self.parts.append(collections.defaultdict(float))
        counts: Counts = collections.defaultdict(lambda: np.zeros(4))
        with torch.inference_mode():
            for index in range(self._num_images):
                self._add_image(index, counts)
        return total_score(counts)

    def _add_image(self, index: int, counts: "Counts") -> None:
        import torch

        with self._timed("reading"):
            record, image = load(self._source, index)
        with self._timed("resizing, normalising"):
            pixels = self._processor(image, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self._device, self._dtype)
        with self._timed("network"):
            outputs = self._network(pixel_values=pixels)
            if self._device == "cuda":
                torch.cuda.synchronize()
        with self._timed("post-processing"):
            result = self._processor.post_process_panoptic_segmentation(
                outputs,
                target_sizes=[(image.height, image.width)],
                threshold=self._threshold,
                stuff_classes=self._stuff,
            )[0]
            id_map = result["segmentation"].cpu().numpy().astype(np.int64) + 1
        with self._timed("metric"):
            predicted = {s["id"] + 1: s["label_id"] for s in result["segments_info"]}
            add_counts(
                counts,
                id_map,
                predicted,
                record.segment_map.astype(np.int64),
                {t + 1: int(label) for t, label in enumerate(record.labels)},
                {int(t) + 1 for t in np.flatnonzero(record.is_crowd)},
            )

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.parts[-1][part] += time.perf_counter() - begin


def make_rivals(
    params: Any,
    *,
    model: Network,
    criterion: CriterionOptions,
    source: Source,
    modes: Sequence[str],
    num_images: int,
    score_threshold: float,
) -> dict[str, TorchEvaluation]:
    """Returns the rivals for evaluation.measure: one network in several modes.

    Args:
      params: parameters of our network, in host memory.
      model: our network.
      criterion: the recipe's `criterion`.
      source: a split with panoptic annotations.
      modes: keys of torch_rival.MODES.
      num_images: how many images are evaluated, the first of the split.
      score_threshold: score that a query must exceed.
    """
    rival = Rival(model, params, criterion)
    return {
        f"PyTorch, {mode}": TorchEvaluation(
            rival.network(mode),
            source,
            num_images=num_images,
            image_size=model.image_size[0],
            score_threshold=score_threshold,
            device=rival.device,
            dtype=rival.dtype,
        )
        for mode in modes
    }


# Maps a class to Σ IoU and the numbers of matched, wrong and missed segments.
Counts = collections.defaultdict[int, np.ndarray]


def add_counts(
    counts: Counts,
    id_map: Integer[np.ndarray, "H W"],
    predicted: Mapping[int, int],
    target_map: Integer[np.ndarray, "H W"],
    targets: Mapping[int, int],
    crowds: set[int],
) -> None:
    """Adds the counts of one image, as panopticapi's pq_compute_single_core does.

    Args:
      counts: counts that are added to.
      id_map: segment of each pixel; 0 is none.
      predicted: class of each segment.
      target_map: target of each pixel; 0 is void.
      targets: class of each target, crowds included.
      crowds: targets that are crowds.
    """
    offset = 1 << 32
    pairs, pixels = np.unique(target_map * offset + id_map, return_counts=True)
    shared = {
        divmod(int(pair), offset): int(number) for pair, number in zip(pairs, pixels)
    }
    area, target_area = collections.Counter(), collections.Counter()
    for (target, segment), number in shared.items():
        area[segment] += number
        target_area[target] += number
    matched_targets, matched = set(), set()
    for (target, segment), number in shared.items():
        if target not in targets or segment not in predicted or target in crowds:
            continue
        if targets[target] != predicted[segment]:
            continue
        void = shared.get((0, segment), 0)
        iou = number / (area[segment] + target_area[target] - number - void)
        if iou > 0.5:
            counts[targets[target]] += (iou, 1, 0, 0)
            matched_targets.add(target)
            matched.add(segment)
    crowd_of = {targets[target]: target for target in sorted(crowds)}
    for target, label in targets.items():
        if target not in crowds and target not in matched_targets:
            counts[label] += (0, 0, 0, 1)
    for segment, label in predicted.items():
        if segment in matched:
            continue
        ignored = shared.get((0, segment), 0)
        if label in crowd_of:
            ignored += shared.get((crowd_of[label], segment), 0)
        if ignored / area[segment] <= 0.5:
            counts[label] += (0, 0, 1, 0)


def total_score(counts: Counts) -> Score:
    """Returns the score of all images; PQ is the mean over the classes that occur."""
    occurring = [row for row in counts.values() if row[1:].any()]
    pq = [100 * iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in occurring]
    tp, fp, fn = (int(x) for x in sum(occurring, np.zeros(4))[1:])
    return Score(pq=float(np.mean(pq)) if pq else 0.0, tp=tp, fp=fp, fn=fn)
