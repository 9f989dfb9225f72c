"""The web application of eomt-serve: requests in, batches to the device, JSON out."""

import asyncio
import collections
import contextlib
import dataclasses
import importlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from eomt_jax.predict.photographs import MOST_SERVED_PIXELS, decode_photograph
from eomt_jax.predict.segmenter import Segmenter

_MOST_BYTES = 1 << 26
"""Most bytes of a photograph's file."""

Segment = Callable[[Sequence[np.ndarray], str | None, float | None], list[Any]]


class RefusedError(Exception):
    """Says with which HTTP status, and why, a request is refused."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """Holds a photograph that waits for the device, and where its result goes."""

    pixels: np.ndarray
    task: str | None
    threshold: float | None
    result: asyncio.Future[Any]


class Batcher:
    """Gives waiting photographs to the device, one batch at a time.

    A batch is what waits when the device is free, up to a number. Nothing waits for a
    batch to fill up.

    Attributes:
      num_inside: requests that were let in and are not answered yet.
      room: a semaphore for photographs that are decoded: those of two batches, so that
        the others take little memory.
    """

    def __init__(self, segment: Segment, *, batch_size: int, most_inside: int):
        """Creates a batcher; `run` serves it.

        Args:
          segment: (photographs, task, threshold) → for each its result or a ValueError.
          batch_size: most photographs in a batch.
          most_inside: requests that are let in; more are refused.
        """
        self.num_inside = 0
        self.room = asyncio.Semaphore(2 * batch_size)
        self._segment = segment
        self._batch_size = batch_size
        self._most_inside = most_inside
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()

    @contextlib.contextmanager
    def let_in(self) -> Iterator[None]:
        """Counts a request while the block runs.

        Raises:
          RefusedError: there are as many requests as may be.
        """
        if self.num_inside >= self._most_inside:
            raise RefusedError(503, f"{self.num_inside} requests wait; try again later")
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    async def __call__(
        self, pixels: np.ndarray, task: str | None, threshold: float | None
    ) -> Any:
        """Returns the result of a photograph, in its turn.

        Raises:
          ValueError: `segment` returned or raised it.
        """
        result = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Waiting(pixels, task, threshold, result))
        return await result

    async def run(self) -> None:
        """Serves until it is cancelled."""
        with ThreadPoolExecutor(1) as device:
            while True:
                batch = [await self._waiting.get()]
                while len(batch) < self._batch_size and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                groups = collections.defaultdict(list)
                for one in batch:
                    # Its client may have left while it waited.
                    if not one.result.cancelled():
                        groups[one.task, one.threshold].append(one)
                for (task, threshold), group in groups.items():
                    await self._serve(device, group, task, threshold)

    async def _serve(
        self,
        device: ThreadPoolExecutor,
        group: Sequence[_Waiting],
        task: str | None,
        threshold: float | None,
    ) -> None:
        photographs = [one.pixels for one in group]
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(
                device, self._segment, photographs, task, threshold
            )
        except Exception as error:  # noqa: BLE001 (each client gets it)
            results = [error] * len(group)
        for one, result in zip(group, results, strict=True):
            if one.result.cancelled():
                continue
            if isinstance(result, Exception):
                one.result.set_exception(result)
            else:
                one.result.set_result(result)


def segment_all(
    segmenter: Segmenter,
    photographs: Sequence[np.ndarray],
    task: str | None,
    threshold: float | None,
) -> list[Any]:
    """Returns for each photograph its Result, or why it has none.

    Args:
      segmenter: the network.
      photographs: RGB.
      task: see Segmenter.
      threshold: see Segmenter.

    Raises:
      ValueError: task or threshold is wrong.
    """
    damaged: dict[int, ValueError] = {}
    found = segmenter.stream(
        photographs,
        task=task,
        threshold=threshold,
        num_threads=0,
        on_damaged=lambda pixels, error: damaged.update({id(pixels): error}),
    )
    results = list(found)
    return [damaged.get(id(p)) or results.pop(0) for p in photographs]


def create_app(batcher: Batcher, about: dict[str, Any]) -> Any:
    """Returns the FastAPI application; needs fastapi.

    Args:
      batcher: what answers.
      about: what /health says beside the number of requests inside.
    """
    fastapi: Any = importlib.import_module("fastapi")
    responses: Any = importlib.import_module("fastapi.responses")
    serving: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        serving.append(asyncio.create_task(batcher.run()))
        yield
        # uvicorn has let all requests end by now.
        serving[0].cancel()

    app = fastapi.FastAPI(title="eomt-serve", lifespan=lifespan)

    @app.get("/health")
    async def health() -> Any:
        """Says that photographs are segmented, and how many are inside."""
        is_alive = not serving[0].done()
        content = {**about, "ready": is_alive, "inside": batcher.num_inside}
        return responses.JSONResponse(content, 200 if is_alive else 503)

    async def segment(
        request: Any,
        task: str | None = None,
        threshold: float | None = None,
        file_name: str = "",
    ) -> Any:
        """Segments the photograph that is the request's body.

        `file_name` is that of the JSON; the others are options of a Segmenter's call.
        """
        try:
            with batcher.let_in():
                encoded = await _body(request)
                async with batcher.room:
                    pixels = await asyncio.to_thread(
                        decode_photograph,
                        encoded,
                        file_name or "the photograph",
                        max_pixels=MOST_SERVED_PIXELS,
                    )
                    result = await batcher(pixels, task, threshold)
                result = dataclasses.replace(result, file_name=file_name)
                content = await asyncio.to_thread(result.to_coco)
        except RefusedError as error:
            headers = {"Retry-After": "1"} if error.status == 503 else {}
            detail = {"detail": str(error)}
            return responses.JSONResponse(detail, error.status, headers)
        except ValueError as error:
            return responses.JSONResponse({"detail": str(error)}, 400)
        return responses.JSONResponse(content)

    # FastAPI passes the request to an argument of this type, which type checkers don't
    # know where FastAPI isn't installed.
    segment.__annotations__["request"] = fastapi.Request
    app.post("/segment")(segment)
    return app


async def _body(request: Any) -> bytes:
    """Returns the request's body; refuses it as soon as it is too large."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _MOST_BYTES:
            raise RefusedError(
                413, f"the photograph has more than {_MOST_BYTES:,} bytes"
            )
        chunks.append(chunk)
    return b"".join(chunks)
