"""Times one core that prepares training samples, and one that only decodes them."""

import contextlib
import dataclasses
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image

from eomt_jax.benchmark.timing import Timing, take_turns
from eomt_jax.pipeline import color, records, samples, targets, transforms

PREPARE, DECODE = "prepared samples", "decoding alone"
_REST = "reading and the rest"
# Parts of the preparation, and their functions, none of which calls another.
_PARTS: tuple[tuple[str, Any, str], ...] = (
    ("decoding the photograph", transforms, "decode_image"),
    ("decoding the segments", records, "from_example"),
    ("decoding the segments", targets, "segment_masks"),
    ("colours", color, "jitter_color"),
    ("resizing and cutting", transforms, "crop_image"),
    ("targets", targets.IdMap, "crop"),
    ("targets", targets.IdMap, "visible"),
    ("targets", targets.MaskBits, "crop"),
    ("targets", targets.MaskBits, "visible"),
    ("targets", targets, "compact_targets"),
)


@dataclasses.dataclass(frozen=True)
class InputPipeline:
    """Times of one core's work on the same photographs.

    Attributes:
      num_images: photographs in a round.
      image_size: side of the crop.
      color_jitter: whether colours are changed.
      timings: times by name, PREPARE and DECODE, for all the photographs.
      parts: seconds of each part of the preparation, for all the photographs.
    """

    num_images: int
    image_size: int
    color_jitter: bool
    timings: Mapping[str, Timing]
    parts: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """Number of samples prepared in the time of decoding one photograph."""
        return self.timings[PREPARE].ratio_to(self.timings[DECODE])


def measure(
    source: samples.Source,
    options: samples.TrainOptions,
    *,
    rounds: int,
    num_images: int = 128,
    seed: int = 0,
) -> InputPipeline:
    """Times the first samples of a training run, and Pillow on their photographs.

    Args:
      source: the prepared split.
      options: options of the run.
      rounds: number of rounds, in each of which both take a turn.
      num_images: photographs in a round; fewer if the split has fewer.
      seed: seed of the run.
    """
    num_images = min(num_images, len(source))
    sample_at = samples.TrainSampler(
        source=source, options=options, seed=seed, epoch_length=len(source)
    )

    def prepare() -> None:
        for position in range(num_images):
            sample_at(position)

    with _one_core():
        # The index is read from the sample, since it may show a substitute.
        indices = [int(sample_at(i)["example_index"]) for i in range(num_images)]
        photographs = [source[index].image_bytes for index in indices]

        def decode() -> None:
            for encoded in photographs:
                with Image.open(io.BytesIO(encoded)) as image:
                    image.convert("RGB")

        timings = take_turns({PREPARE: prepare, DECODE: decode}, rounds=rounds)
        with _watched() as parts:
            begin = time.perf_counter()
            prepare()
            total = time.perf_counter() - begin
    return InputPipeline(
        num_images=num_images,
        image_size=options.image_size,
        color_jitter=options.color_jitter,
        timings=timings,
        parts={**parts, _REST: total - sum(parts.values())},
    )


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """Keeps this thread on one core if the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """Measures the seconds in each part of the preparation within a `with` block."""
    seconds = dict.fromkeys([part for part, *_ in _PARTS], 0.0)
    originals = [getattr(owner, name) for _, owner, name in _PARTS]
    for (part, owner, name), original in zip(_PARTS, originals, strict=True):
        setattr(owner, name, _timed(original, seconds, part))
    try:
        yield seconds
    finally:
        for (_, owner, name), original in zip(_PARTS, originals, strict=True):
            setattr(owner, name, original)


def _timed(function: Callable, seconds: dict[str, float], part: str) -> Callable:
    def timed(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            seconds[part] += time.perf_counter() - begin

    return timed


def format_result(result: InputPipeline) -> str:
    """Returns tables of the two rates and of the parts of the preparation."""
    lines = [
        f"| one core, {result.num_images} photographs | time an image | ± | images/s |",
        "|---|---|---|---|",
    ]
    for name, timing in result.timings.items():
        seconds = timing.median / result.num_images
        lines.append(
            f"| {name} | {seconds * 1e3:.2f} ms | {timing.spread:.0%} "
            f"| {1 / seconds:.4g} |"
        )
    lines += [
        "",
        "| part of the preparation | time an image | share |",
        "|---|---|---|",
    ]
    total = sum(result.parts.values())
    for name, seconds in result.parts.items():
        each = seconds / result.num_images
        lines.append(f"| {name} | {each * 1e3:.2f} ms | {seconds / total:.0%} |")
    colors = "with" if result.color_jitter else "without"
    last = (
        f"crops of {result.image_size} px {colors} colour jitter are prepared at "
        f"{result.ratio:.2f} × the rate at which Pillow decodes the same photographs"
    )
    return "\n".join([*lines, last])


def as_json(result: InputPipeline) -> dict[str, Any]:
    """Returns the numbers behind the tables; times are seconds for all photographs."""
    return {
        "num_images": result.num_images,
        "image_size": result.image_size,
        "color_jitter": result.color_jitter,
        "ratio": result.ratio,
        "parts": dict(result.parts),
        "timings": {
            name: {"first": timing.first, "seconds": list(timing.seconds)}
            for name, timing in result.timings.items()
        },
    }
