"""eomt-demo opens a page in which a browser segments photographs."""

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from eomt_jax.cli.demo_page import Page, build
from eomt_jax.cli.segmenter_arguments import (
    add_segmenter_arguments,
    open_segmenter,
    warnings_as_notes,
)
from eomt_jax.parallel.host_memory import keep_freed_memory

_MOST_BYTES = "256mb"
"""Size of the largest file that is accepted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the page until Ctrl-C or SIGTERM; returns the exit status."""
    options = parse_arguments(arguments)
    if importlib.util.find_spec("gradio") is None:
        return _say("the page needs gradio: pip install 'eomt_jax[demo]'")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            warnings_as_notes(),
            # A thread of gradio may still write while it is deleted.
            tempfile.TemporaryDirectory(
                prefix="eomt_demo_", ignore_cleanup_errors=True
            ) as folder,
        ):
            _serve(options, folder)
    except (ValueError, ImportError, OSError) as error:
        return _say(str(error))
    except KeyboardInterrupt:
        print(file=sys.stderr)
    return 0


def _say(sentence: str) -> int:
    print(f"eomt-demo: {sentence[:1000]}", file=sys.stderr)
    return 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eomt-demo",
        description="Opens a page: drop a photograph, choose the task, move the "
        "threshold, hover over the segments, and download the overlay and the JSON of "
        "eomt-predict.",
    )
    add_segmenter_arguments(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; default: %(default)s, this machine alone; 0.0.0.0 "
        "lets everybody in who reaches this machine",
    )
    parser.add_argument(
        "--port", type=int, help="default: the first free one from 7860 on"
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="also open a public address at gradio.live, through gradio's servers",
    )
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace, folder: str) -> None:
    keep_freed_memory()
    # Uploads lie in the folder too, which is deleted at the end.
    os.environ["GRADIO_TEMP_DIR"] = folder
    segmenter = open_segmenter(options, batch_size=1)
    for note in segmenter.notes:
        print(f"note: {note}", file=sys.stderr)
    page = Page(segmenter, folder, skip_padding=options.skip_padding)
    blank = f"{folder}/blank.png"
    Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save(blank)
    page.answer(blank, page.tasks[0], 0.5)
    print(
        f"{options.checkpoint} is compiled, in {segmenter.network.compile_seconds:.0f} s.",
        file=sys.stderr,
    )
    info = segmenter.info
    title = (
        f"## EoMT: {info.num_classes} classes of {info.name}\n`{options.checkpoint}`"
    )
    blocks = build(page, title)
    address, public = launch(blocks, options)
    print(f"The page is at {address} until you press Ctrl-C.", flush=True)
    if public:
        print(f"Everybody can open it at {public}", flush=True)
    blocks.block_thread()


def launch(blocks: Any, options: argparse.Namespace) -> tuple[str, str | None]:
    """Starts serving in a thread; returns the address, and the public one if shared.

    Raises:
      OSError: the port is taken, or no free one was found.
    """
    try:
        _, address, public = blocks.launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            max_file_size=_MOST_BYTES,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise OSError(
            f"port {options.port} of {options.host} can't be opened: give another one "
            "with --port"
        ) from error
    return address, public


if __name__ == "__main__":
    sys.exit(main())
