"""Times eomt-serve with several clients, beside the same program called directly.

    python -m eomt_jax.benchmark.serving EXPORTED PHOTO [--clients 1 8 32] [--seconds 20]

A client sends the photograph, waits for the answer and sends it again. The call is the
exported program in a process of its own: from the file's bytes to COCO's JSON as text, one
after the other.
"""

import argparse
import contextlib
import http.client
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eomt_jax.benchmark import machine
from eomt_jax.parallel.host_memory import keep_freed_memory
from eomt_jax.predict.photographs import decode_photograph
from eomt_jax.predict.segmenter import Segmenter

_RETRY = 0.1
"""Seconds after which a client that was refused tries again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table of requests a second and times; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eomt_jax.benchmark.serving",
        description="Times eomt-serve, beside the same program called directly.",
    )
    add = parser.add_argument
    add("exported", help="folder from eomt-export")
    add("photo", type=pathlib.Path, help="a photograph, which every request sends")
    add("--clients", type=int, nargs="+", default=[1, 8, 32])
    add("--seconds", type=float, default=20.0, help="for each line; default: 20")
    add("--serve", default="", help="further arguments of eomt-serve, as one text")
    options = parser.parse_args(arguments)
    encoded = options.photo.read_bytes()
    print(
        machine.format_description(machine.describe(torch_threads=0, with_torch=False))
    )
    print(
        "| clients | answers a second | median | 95 % within | refused |\n"
        "|---|---|---|---|---|"
    )
    with _direct_call(options.exported, encoded) as call:
        print(format_row("direct calls", measure(1, options.seconds, lambda: call)))
    with _server(options.exported, options.serve.split()) as address:
        for count in options.clients:
            connect = _client(address, encoded)
            print(format_row(str(count), measure(count, options.seconds, connect)))
    return 0


def measure(
    num_clients: int, seconds: float, connect: Callable[[], Callable[[], int]]
) -> tuple[list[float], int, float]:
    """Lets clients ask at the same time, each again as soon as it has an answer.

    Args:
      num_clients: how many, each in a thread.
      seconds: after which a client asks no more.
      connect: called in each thread; returns the function that asks once and returns
        the HTTP status.

    Returns:
      Seconds that each answer took, the number of refusals, and the seconds from the
      first question to the last answer.

    Raises:
      RuntimeError: an answer was neither 200 nor 503, or there was none.
    """
    times: list[float] = []
    refused: list[float] = []
    problems: list[BaseException] = []
    begin = time.monotonic()

    def ask_again_and_again() -> None:
        ask = connect()
        while (asked := time.monotonic()) < begin + seconds:
            status = ask()
            took = time.monotonic() - asked
            if status == 503:
                refused.append(took)
                time.sleep(_RETRY)
            elif status == 200:
                times.append(took)
            else:
                raise RuntimeError(f"the server answered with {status}")

    def client() -> None:
        try:
            ask_again_and_again()
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            problems.append(error)

    threads = [threading.Thread(target=client) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(f"{len(problems)} clients got no answer: {problems[0]!r}")
    return times, len(refused), time.monotonic() - begin


def format_row(name: str, measured: tuple[list[float], int, float]) -> str:
    """Returns a row of the table."""
    times, num_refused, seconds = measured
    median, most = np.percentile(times, [50, 95])
    return (
        f"| {name} | {len(times) / seconds:.1f} | {1000 * median:.0f} ms | "
        f"{1000 * most:.0f} ms | {num_refused} |"
    )


@contextlib.contextmanager
def _direct_call(exported: str, encoded: bytes) -> Iterator[Callable[[], int]]:
    """Gives the function that segments the photograph in this process, warmed up."""
    keep_freed_memory()
    segmenter = Segmenter.from_export(exported)

    def call() -> int:
        pixels = decode_photograph(encoded, "the photograph")
        json.dumps(segmenter(pixels).to_coco())
        return 200

    call()
    yield call


@contextlib.contextmanager
def _server(exported: str, arguments: Sequence[str]) -> Iterator[str]:
    """Gives host:port of an eomt-serve that runs for the time of the block."""
    command = [sys.executable, "-m", "eomt_jax.cli.serve", exported, "--port=0"]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            found = re.search(r"http://\S+", line)
            if found is None:
                raise RuntimeError("eomt-serve did not start; its reason is above")
            yield urllib.parse.urlsplit(found[0]).netloc
        finally:
            process.terminate()


def _client(address: str, encoded: bytes) -> Callable[[], Callable[[], int]]:
    def connect() -> Callable[[], int]:
        connection = http.client.HTTPConnection(address, timeout=300)

        def ask() -> int:
            connection.request("POST", "/segment", encoded)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                json.loads(content)
            return answer.status

        return ask

    return connect


if __name__ == "__main__":
    sys.exit(main())
