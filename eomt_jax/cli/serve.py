"""eomt-serve segments photographs that come over HTTP, with a program of eomt-export."""

import argparse
import functools
import importlib
import importlib.util
import re
import socket
import sys
from collections.abc import Sequence
from typing import Any

import jax

from eomt_jax.cli.segmenter_arguments import (
    add_result_arguments,
    not_empty,
    positive,
    warnings_as_notes,
)
from eomt_jax.cli.serve_app import Batcher, create_app, segment_all
from eomt_jax.parallel.host_memory import keep_freed_memory
from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.task_registry import task_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until Ctrl-C or SIGTERM; returns the exit status."""
    options = parse_arguments(arguments)
    missing = [m for m in ("fastapi", "uvicorn") if importlib.util.find_spec(m) is None]
    if missing:
        return _say("the server needs FastAPI: pip install 'eomt_jax[serve]'")
    uvicorn: Any = importlib.import_module("uvicorn")
    keep_freed_memory()
    try:
        with warnings_as_notes():
            segmenter = Segmenter.from_export(
                options.exported,
                task=options.task,
                batch_size=options.batch_size or _default_batch_size(),
                max_instances=options.max_instances,
                nms_iou=options.nms_iou,
                compilation_cache=options.compilation_cache,
            )
            app = _create(segmenter, options)
            opened = _bind(options.host, options.port)
            segmenter.warmup(options.sizes)
    except (ValueError, ImportError, OSError) as error:
        return _say(str(error))
    # From here on clients may connect; the server accepts them in a moment.
    opened.listen()
    print(
        f"{options.exported} is at http://{options.host}:{opened.getsockname()[1]} until "
        f"you press Ctrl-C, compiled in {segmenter.network.compile_seconds:.0f} s, in "
        f"batches of up to {segmenter.network.batch_size}.",
        flush=True,
    )
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[opened])
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eomt-serve",
        description="Serves POST /segment?task=…&threshold=…, whose body is a photograph "
        "and whose answer is the JSON of eomt-predict, and GET /health.",
    )
    add = parser.add_argument
    add("exported", type=not_empty, help="folder from eomt-export, without --batch")
    add("--task", choices=task_names(), help="default: what the model was trained for")
    add(
        "--batch_size",
        type=positive,
        help="most photographs predicted together; default: 1 on a CPU, else 8",
    )
    add(
        "--queue",
        type=positive,
        default=64,
        help="requests that are let in; more are answered with 503; default: %(default)s",
    )
    add(
        "--sizes",
        type=_size,
        nargs="+",
        default=[(480, 640)],
        metavar="WIDTHxHEIGHT",
        help="sizes of photographs to compile for before the first request; default: "
        "640x480",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen at; default: %(default)s, this machine alone",
    )
    add("--port", type=int, default=8000, help="0 takes a free one; default: 8000")
    add_result_arguments(parser)
    return parser.parse_args(arguments)


def _create(segmenter: Segmenter, options: argparse.Namespace) -> Any:
    batcher = Batcher(
        functools.partial(segment_all, segmenter),
        batch_size=segmenter.network.batch_size,
        most_inside=options.queue,
    )
    about = {
        "task": segmenter.task,
        "dataset": segmenter.info.name,
        "classes": segmenter.info.num_classes,
    }
    return create_app(batcher, about)


def _bind(host: str, port: int) -> socket.socket:
    """Returns a socket that holds the port and refuses connections until it listens.

    Raises:
      OSError: the port is taken, or the host is no address of this machine.
    """
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except (OSError, OverflowError) as error:
        opened.close()
        raise OSError(
            f"port {port} of {host} can't be opened ({error}): give another one with "
            "--port"
        ) from error
    return opened


def _default_batch_size() -> int:
    return 1 if jax.default_backend() == "cpu" else 8


def _size(text: str) -> tuple[int, int]:
    """Returns (height, width) of an argument such as 640x480."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no size such as 640x480")
    return int(found[2]), int(found[1])


def _say(sentence: str) -> int:
    print(f"eomt-serve: {sentence[:1000]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
