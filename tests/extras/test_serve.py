"""eomt-serve over HTTP: answers, refusals, overload, and its end; needs fastapi."""

import asyncio
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import uvicorn
from PIL import Image

from eomt_jax.cli import serve_app
from eomt_jax.cli.serve_app import Batcher, create_app, segment_all
from eomt_jax.predict import export
from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import INFO, BrightestChannel, channel_params

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter(BrightestChannel(), channel_params(), INFO, batch_size=4)


class Gate:
    """Segments while it is open, and remembers the sizes of batches."""

    def __init__(self, segmenter):
        self.segmenter, self.opened = segmenter, threading.Event()
        self.opened.set()
        self.batches, self.batcher = [], None

    def __call__(self, photographs, task, threshold):
        self.batches.append(len(photographs))
        assert self.opened.wait(timeout=60)
        return segment_all(self.segmenter, photographs, task, threshold)


@pytest.fixture
def served(segmenter):
    """Serves with room for six requests; gives the port, the gate and the server."""
    gate = Gate(segmenter)
    gate.batcher = Batcher(gate, batch_size=4, most_inside=6)
    app = create_app(gate.batcher, {"task": "panoptic"})
    config = uvicorn.Config(app, port=0, log_level="warning")
    server, socket = uvicorn.Server(config), config.bind_socket()
    socket.listen()
    thread = threading.Thread(target=asyncio.run, args=[server.serve([socket])])
    thread.start()
    yield socket.getsockname()[1], gate, server
    gate.opened.set()
    server.should_exit = True
    thread.join(timeout=60)
    assert not thread.is_alive()


def ask(port, body=None, path="/segment"):
    """Returns the status, the JSON and the headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read()), answer.headers
    connection.close()
    return found


def photo(width=32):
    """Returns a PNG, red on its left side and green on its right."""
    pixels = np.zeros((32, width, 3), np.uint8)
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 1] = 255, 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_photograph_is_answered_with_the_json_of_eomt_predict(served, segmenter):
    port, _, _ = served
    status, found, _ = ask(port, photo())
    assert status == 200
    with Image.open(io.BytesIO(photo())) as image:
        assert found == segmenter(image).to_coco()
    assert [row["area"] for row in found["annotations"]] == [512, 512]
    path = "/segment?task=instance&threshold=0.96&file_name=a.jpg"
    _, found, _ = ask(port, photo(), path)
    assert found["images"][0]["file_name"] == "a.jpg"
    assert found["info"]["task"] == "instance"
    assert [row["category_id"] for row in found["annotations"]] == [1]


def test_bad_requests_are_answered_with_a_sentence(served, monkeypatch):
    port, _, _ = served
    monkeypatch.setattr(serve_app, "_MOST_BYTES", 10_000)
    strip = io.BytesIO()
    Image.new("RGB", (5000, 1)).save(strip, format="PNG")
    for body, path, status, words in [
        (b"hello", "/segment", 400, "the photograph is no picture"),
        (b"", "/segment", 400, "the photograph is empty"),
        (b"", "/segment?file_name=a.jpg", 400, "a.jpg is empty"),
        (strip.getvalue(), "/segment?task=semantic", 400, "takes 5000 windows"),
        (photo(), "/segment?task=foo", 400, "it must be one of panoptic"),
        (photo(), "/segment?threshold=7", 400, "a score lies between 0 and 1"),
        (bytes(10_001), "/segment", 413, "more than 10,000 bytes"),
    ]:
        found, content, _ = ask(port, body, path)
        assert (found, words in content["detail"]) == (status, True), content
    assert ask(port, photo(), "/segment?threshold=x")[0] == 422
    assert ask(port, photo())[0] == 200


def test_overload_is_refused_at_once_and_the_others_are_answered(served):
    port, gate, _ = served
    assert ask(port, path="/health")[1] == {
        "task": "panoptic",
        "ready": True,
        "inside": 0,
    }
    gate.opened.clear()
    with ThreadPoolExecutor(6) as clients:
        waiting = [clients.submit(ask, port, photo()) for _ in range(6)]
        wait_until(lambda: ask(port, path="/health")[1]["inside"] == 6)
        status, content, headers = ask(port, photo())
        assert (status, headers["Retry-After"]) == (503, "1")
        assert content == {"detail": "6 requests wait; try again later"}
        # All are decoded; some of them are with the device.
        wait_until(lambda: sum(gate.batches) + gate.batcher._waiting.qsize() == 6)
        gate.opened.set()
        answers = [one.result() for one in waiting]
    assert [status for status, _, _ in answers] == [200] * 6
    assert all(content == answers[0][1] for _, content, _ in answers)
    # The first batch began with what had come, and the rest waited together.
    assert sum(gate.batches) == 6
    assert gate.batches[1] == min(4, 6 - gate.batches[0])
    assert ask(port, path="/health")[1]["inside"] == 0


def test_requests_inside_are_answered_when_the_server_ends(served):
    port, gate, server = served
    gate.opened.clear()
    with ThreadPoolExecutor(3) as clients:
        waiting = [clients.submit(ask, port, photo()) for _ in range(3)]
        wait_until(lambda: ask(port, path="/health")[1]["inside"] == 3)
        server.should_exit = True
        time.sleep(0.3)
        gate.opened.set()
        assert [one.result()[0] for one in waiting] == [200] * 3


def test_command_serves_an_exported_folder_and_ends_at_a_signal(tmp_path):
    folder = tmp_path / "exported"
    export.save_export(folder, BrightestChannel(), channel_params(), dataset_info=INFO)
    command = [sys.executable, "-m", "eomt_jax.cli.serve", str(folder), "--port=0"]
    command += ["--sizes", "32x32", "--compilation_cache="]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            port = int(re.search(r" is at http://127\.0\.0\.1:(\d+) until", line)[1])
            assert ask(port, photo())[0] == 200
            taken = subprocess.run(
                [*command[:-4], f"--port={port}"],
                capture_output=True,
                check=False,
                text=True,
                timeout=120,
            )
            assert taken.returncode == 1
            assert taken.stderr.startswith(
                f"eomt-serve: port {port} of 127.0.0.1 can't"
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) in (0, -signal.SIGTERM)
        finally:
            process.kill()
