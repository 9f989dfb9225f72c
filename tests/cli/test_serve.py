import asyncio
import functools

import numpy as np
import pytest

from eomt_jax.cli import serve
from eomt_jax.cli.serve_app import Batcher, RefusedError, segment_all
from eomt_jax.postprocess.segmentation import Segmentation
from eomt_jax.predict.programs import CompiledNetwork
from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import INFO, BrightestChannel, channel_params


def pixels(value):
    return np.full((2, 2, 3), value, np.uint8)


def run(batcher, talk):
    """Runs a coroutine while the batcher serves."""

    async def both():
        serving = asyncio.create_task(batcher.run())
        try:
            return await asyncio.wait_for(talk(), timeout=20)
        finally:
            serving.cancel()

    return asyncio.run(both())


def test_waiting_photographs_go_to_the_device_in_batches():
    batches = []

    def segment(photographs, task, threshold):
        batches.append(([int(p[0, 0, 0]) for p in photographs], task, threshold))
        return [int(p[0, 0, 0]) * 10 for p in photographs]

    batcher = Batcher(segment, batch_size=3, most_inside=9)

    async def talk():
        keys = [(i, None, None) for i in range(5)] + [(5, "instance", 0.5)]
        return await asyncio.gather(*[batcher(pixels(i), t, s) for i, t, s in keys])

    assert run(batcher, talk) == [0, 10, 20, 30, 40, 50]
    assert batches == [
        ([0, 1, 2], None, None),
        ([3, 4], None, None),
        ([5], "instance", 0.5),
    ]


def test_error_of_one_photograph_is_its_own():
    def segment(photographs, task, threshold):
        if task == "wrong":
            raise ValueError("task")
        return [ValueError("dark") if p[0, 0, 0] == 0 else "good" for p in photographs]

    batcher = Batcher(segment, batch_size=9, most_inside=9)

    async def talk():
        calls = [batcher(pixels(i), None, None) for i in (0, 1)]
        calls.append(batcher(pixels(1), "wrong", None))
        found = await asyncio.gather(*calls, return_exceptions=True)
        # The device goes on.
        return [*found, await batcher(pixels(1), None, None)]

    dark, good, wrong, later = run(batcher, talk)
    assert (str(dark), good, str(wrong), later) == ("dark", "good", "task", "good")


def test_photograph_whose_client_left_is_not_segmented():
    seen = []

    def segment(photographs, task, threshold):
        seen.extend(int(p[0, 0, 0]) for p in photographs)
        return [None] * len(photographs)

    batcher = Batcher(segment, batch_size=1, most_inside=9)

    async def talk():
        tasks = [asyncio.create_task(batcher(pixels(i), None, None)) for i in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    run(batcher, talk)
    assert seen == [0, 2]


def test_full_house_refuses_and_counts_those_that_leave():
    batcher = Batcher(lambda *_: [], batch_size=1, most_inside=2)
    with batcher.let_in():
        with (
            batcher.let_in(),
            pytest.raises(RefusedError, match="2 requests wait") as e,
        ):
            batcher.let_in().__enter__()
        assert e.value.status == 503
        with pytest.raises(ZeroDivisionError), batcher.let_in():
            raise ZeroDivisionError
        assert batcher.num_inside == 1
    assert batcher.num_inside == 0


class FirstClass(CompiledNetwork):
    """Finds class 0 everywhere, and compiles nothing."""

    def logits(self, images, *, factored=False):
        return [(None, np.zeros((2, 5)))] * len(images)

    def post_process(self, logits, content_size, size, *_, **options):
        return Segmentation(labels=np.array([0]), id_map=np.ones(size, int))


def test_strip_among_photographs_is_refused_alone():
    segmenter = Segmenter(BrightestChannel(), channel_params(), INFO)
    segmenter.network = FirstClass(
        BrightestChannel(), channel_params(), INFO, batch_size=4
    )
    segment = functools.partial(segment_all, segmenter)
    strip = np.zeros((1, 2000, 3), np.uint8)
    found = segment([pixels(1), strip, pixels(2)], "semantic", None)
    assert [getattr(result, "size", None) for result in found] == [(2, 2), None, (2, 2)]
    assert "1 × 2000 pixels takes" in str(found[1])
    assert found[2].image[0, 0, 0] == 2
    with pytest.raises(ValueError, match="a score lies between 0 and 1"):
        segment([pixels(1)], None, 7.0)


def test_serve_without_fastapi_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert serve.main(["nowhere"]) == 1
    assert capsys.readouterr().err == (
        "eomt-serve: the server needs FastAPI: pip install 'eomt_jax[serve]'\n"
    )


def test_sizes_are_width_times_height(capsys):
    options = serve.parse_arguments(["x", "--sizes", "640x480", "4000x3000"])
    assert options.sizes == [(480, 640), (3000, 4000)]
    assert (options.host, options.queue) == ("127.0.0.1", 64)
    with pytest.raises(SystemExit):
        serve.parse_arguments(["x", "--sizes=640"])
    assert "no size such as 640x480" in capsys.readouterr().err
