"""eomt-predict writes overlays and JSON files of the segments on photographs."""

import argparse
import collections
import contextlib
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from etils import epath

from eomt_jax.cli.photograph_files import (
    check_outputs,
    check_writable,
    find_photographs,
    no_empty_folder,
    output_names,
)
from eomt_jax.cli.progress import Progress
from eomt_jax.cli.result_files import write_result
from eomt_jax.cli.segmenter_arguments import (
    add_segmenter_arguments,
    not_empty,
    open_segmenter,
    positive,
    warnings_as_notes,
)
from eomt_jax.parallel.host_memory import keep_freed_memory
from eomt_jax.postprocess.confidence import KINDS
from eomt_jax.predict.result import Result
from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.task_registry import get_task

_MAX_WAITING = 2**30
"""Most bytes of results that wait to be written.

Instances of a large photograph have many bytes. Few results wait, since predicting a
photograph takes longer than drawing it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts, prints the speed and unreadable files; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        out = epath.Path(options.out).expanduser()
        names = output_names(find_photographs(options.images, leave_out=out))
        check_outputs(names, out, _endings(options))
        with no_empty_folder(out), warnings_as_notes():
            check_writable(out)
            segmenter = _open(options)
            problems = _predict(segmenter, names, out, options)
    except (ValueError, ImportError) as error:
        _say(str(error))
        return 1
    except OSError as error:
        file = error.filename2 or error.filename
        _say(f"{file}: {error.strerror}" if file and error.strerror else str(error))
        return 1
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split("\n")[0]
        hint = "; try a smaller --batch_size" if "RESOURCE_EXHAUSTED" in reason else ""
        _say(reason[:500] + hint)
        return 1
    except MemoryError as error:
        _say(
            f"too little memory ({error}); try --num_threads=1, a smaller --batch_size, "
            "--image_size or --long_side, or a higher --threshold"
        )
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        _say(f"stopped; what was done is in {options.out}")
        return 130
    for problem in problems:
        _say(problem)
    return 1 if problems else 0


def _say(sentence: str) -> None:
    """Prints why something could not be done, at a length that people read."""
    short = sentence if len(sentence) <= 1000 else f"{sentence[:1000]} …"
    print(f"eomt-predict: {short}", file=sys.stderr)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eomt-predict",
        description="Segments photographs. For each PHOTO it writes PHOTO.png, an "
        "overlay with outlines and names, and PHOTO.json, the segments in COCO's terms.",
    )
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        type=not_empty,
        help="files, folders (with all below them) and patterns; JPEG, PNG, WebP, TIFF "
        "and more, grey or coloured; EXIF orientation is applied",
    )
    add_segmenter_arguments(parser)
    add(
        "--out",
        type=not_empty,
        default="predictions",
        help="folder to write; default: predictions",
    )
    add(
        "--batch_size",
        type=int,
        help="photographs predicted together; default: 1 on a CPU, else 8",
    )
    add(
        "--tile",
        action="store_true",
        help="predict large photographs piece by piece at their own scale (semantic "
        "and instance segmentation)",
    )
    add(
        "--threshold",
        type=float,
        help="least score of a segment; default: 0.8 for panoptic segments, 0.5 for "
        "instances; classes of pixels have no scores",
    )
    add("--masks", action="store_true", help="write PHOTO.masks.png too: ids of pixels")
    add(
        "--explain",
        action="store_true",
        help="write PHOTO.explain.png too: how the queries of the best segments find "
        "them, with their masks, classes and attention in each masked layer",
    )
    add(
        "--confidence",
        nargs="?",
        const=KINDS[0],
        choices=KINDS,
        help="write PHOTO.confidence.png and PHOTO.confidence16.png too, a picture and "
        "16-bit numbers of how sure the network is that some class covers a pixel; "
        f"{KINDS[1]}: the best class's share of all classes (semantic and panoptic "
        "segmentation)",
    )
    add("--no_overlay", action="store_true", help="write no PHOTO.png")
    add(
        "--long_side",
        type=positive,
        help="long side of the overlays in pixels; default: 1024 to 2048",
    )
    add(
        "--num_threads",
        type=positive,
        default=4,
        help="number of threads that read and write; default: 4",
    )
    # Photographs may stand before and after the options.
    return parser.parse_intermixed_args(arguments)


def _endings(options: argparse.Namespace) -> list[str]:
    """Returns the endings of the files of each photograph."""
    asked = {
        ".png": not options.no_overlay,
        ".masks.png": options.masks,
        ".explain.png": options.explain,
        ".confidence.png": options.confidence,
        ".confidence16.png": options.confidence,
        ".json": True,
    }
    return [ending for ending, wanted in asked.items() if wanted]


def _open(options: argparse.Namespace) -> Segmenter:
    if options.explain and options.tile:
        raise ValueError(
            "--explain shows the queries of a whole photograph and --tile cuts it into "
            "parts: leave out one of them"
        )
    keep_freed_memory()
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = 1 if jax.default_backend() == "cpu" else 8
    segmenter = open_segmenter(
        options, batch_size=batch_size, confidence=options.confidence or ""
    )
    for note in (*segmenter.notes, *options_without_effect(options, segmenter.task)):
        print(f"note: {note}", file=sys.stderr)
    if options.masks:
        get_task(segmenter.task).check_submission(segmenter.info)
    return segmenter


def options_without_effect(options: argparse.Namespace, task: str) -> list[str]:
    """Returns a sentence for each option that is given and changes nothing."""
    unused = {
        name: f"on {task} segmentation" for name in get_task(task).unused_settings
    }
    if options.tile:
        unused["skip_padding"] = "on tiles, which have no padding"
    if options.no_overlay and not options.confidence:
        unused["long_side"] = "without overlays"
    return [
        f"--{name} has no effect {where}"
        for name, where in unused.items()
        # A number may be 0, which equals False.
        if (value := getattr(options, name)) is not None and value is not False
    ]


def _predict(
    segmenter: Segmenter,
    names: dict[epath.Path, str],
    out: epath.Path,
    options: argparse.Namespace,
) -> list[str]:
    """Predicts and writes all results; returns unreadable files with the reasons."""
    problems: list[str] = []
    num_done = 0
    progress = Progress()
    begin = time.monotonic()

    def speed() -> float:
        """Returns the photographs a second, without the time of compiling."""
        seconds = time.monotonic() - begin - segmenter.network.compile_seconds
        return num_done / max(seconds, 1e-9)

    def on_damaged(_: Any, error: ValueError) -> None:
        problems.append(str(error))
        progress(num_done + len(problems), len(names), speed())

    results = segmenter.stream(
        list(names),
        tile=options.tile,
        threshold=options.threshold,
        num_threads=options.num_threads,
        on_damaged=on_damaged,
    )
    with (
        contextlib.closing(results),
        ThreadPoolExecutor(options.num_threads) as pool,
    ):
        writing: collections.deque[tuple[Future[None], int]] = collections.deque()
        for result in results:
            path = out / names[epath.Path(result.file_name)]
            explanation = None
            if options.explain:
                explained = segmenter.explain(result.image, threshold=options.threshold)
                explanation = explained.draw()
            work = pool.submit(
                write_result,
                result,
                path,
                overlay=not options.no_overlay,
                masks=options.masks,
                long_side=options.long_side,
                explanation=explanation,
            )
            writing.append((work, _bytes(result)))
            while (
                len(writing) > 2 * options.num_threads
                or sum(size for _, size in writing) > _MAX_WAITING
            ):
                writing.popleft()[0].result()
            num_done += 1
            progress(num_done + len(problems), len(names), speed())
        for future, _ in writing:
            future.result()
    print(
        f"{num_done} of {len(names)} photographs are in {out}: {speed():.2g} a second, "
        f"after {segmenter.network.compile_seconds:.1f} s of compiling."
        + (f" {len(problems)} could not be read:" if problems else ""),
        file=sys.stderr,
    )
    return problems


def _bytes(result: Result) -> int:
    found = result.segmentation
    masks = found.id_map if found.masks is None else found.masks
    return result.image.nbytes + (0 if masks is None else masks.nbytes)


if __name__ == "__main__":
    sys.exit(main())
