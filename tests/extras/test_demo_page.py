"""The page of eomt-demo in a real browser, by clicks; `.ci/extras` runs it.

It needs gradio, playwright, and a chromium: that of the variable CHROMIUM, or in PATH.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request

import gradio
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright import sync_api

from eomt_jax.cli import demo
from eomt_jax.cli.demo_page import Page, build
from eomt_jax.predict.segmenter import Segmenter
from tests.predict.channel_network import INFO, BrightestChannel, channel_params

pytestmark = pytest.mark.filterwarnings("default")
sync_api.expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Serves a network that finds red (a thing), green (stuff) and blue (a thing)."""
    segmenter = Segmenter(BrightestChannel(), channel_params(), INFO)
    page = Page(segmenter, str(tmp_path_factory.mktemp("answers")))
    blocks = build(page, "## Colours")
    address, public = demo.launch(blocks, demo.parse_arguments(["--checkpoint=x"]))
    assert address.startswith("http://127.0.0.1:")
    assert public is None
    yield address
    blocks.close()


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, names)), ""
    )
    assert found, (
        "there is no chromium in PATH: install one, or set CHROMIUM to its path"
    )
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"]
        )
        yield opened
        opened.close()


@pytest.fixture
def view(browser, address):
    """Opens the page; at the end nothing came from elsewhere and nothing failed."""
    context = browser.new_context(accept_downloads=True)
    view = context.new_page()
    view.set_default_timeout(30_000)
    requests, errors = [], []
    view.on("request", lambda request: requests.append(request.url))
    view.on("pageerror", lambda error: errors.append(str(error)))
    view.goto(address)
    sentence_is(view, r"Drop a photograph above\.")
    yield view
    assert view.get_by_text("Error", exact=True).count() == 0
    context.close()
    assert not [url for url in requests if not re.match(f"{address}|data:|blob:", url)]
    assert not errors


@pytest.fixture
def photo(tmp_path):
    """Returns a new photograph: half red, a quarter green, a quarter blue."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0], pixels[:32, 32:, 1], pixels[32:, 32:, 2] = 255, 255, 255
    path = tmp_path / "my_photo & 1.png"
    note = PngInfo()
    note.add_text("Comment", str(tmp_path))
    Image.fromarray(pixels).save(path, pnginfo=note)
    return path


def sentence_is(view, pattern):
    sentence = view.locator("#sentence")
    sync_api.expect(sentence).to_have_text(re.compile(f"^\\s*{pattern}\\s*$"))


def upload(view, path, pattern):
    view.locator("#photograph input[type=file]").set_input_files(path)
    sentence_is(view, pattern)


def hovered(view, x, y):
    """Returns the texts that show when the pointer is at a place of the picture."""
    box = view.locator("#picture svg").bounding_box()
    view.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    texts = view.locator("#picture svg text")
    return [one.text_content() for one in texts.all() if one.is_visible()]


def downloaded(view, button, folder):
    with view.expect_download() as download:
        view.locator(button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_photograph_is_segmented_and_hovered_and_downloaded(view, photo, tmp_path):
    name = re.escape(photo.name)
    upload(
        view, photo, rf"{name}, 64 × 64 pixels: 3 segments\. The network took .* s\."
    )
    # The scores are softmax of 5, 6 and 7 beside four zeros.
    assert hovered(view, 0.2, 0.5) == ["class 0, 97 %"]
    assert hovered(view, 0.8, 0.2) == ["class 3, 99 %"]
    assert hovered(view, 0.8, 0.8) == ["class 1, 100 %"]
    rows = view.locator("#picture li").all_text_contents()
    assert rows[0] == "class 0, 97 %, on 50 % of the photograph"

    folder = tmp_path / "downloads"
    folder.mkdir()
    coco = json.loads(downloaded(view, "#coco", folder).read_text())
    assert coco["images"][0]["file_name"] == photo.name
    areas = sorted(row["area"] for row in coco["annotations"])
    assert areas == pytest.approx([1024, 1024, 2048], rel=0.02)
    with Image.open(downloaded(view, "#overlay", folder)) as overlay:
        assert overlay.size == (1024, 1024)


def test_threshold_and_task_change_without_the_network(view, photo):
    name = re.escape(photo.name)
    upload(
        view, photo, rf"{name}, 64 × 64 pixels: 3 segments\. The network took .* s\."
    )
    number = view.locator("#threshold input[type=number]")
    number.fill("0.98")
    kept = r"\. The network did not run again\."
    sentence_is(view, rf"{name}, 64 × 64 pixels: 2 segments{kept}")
    assert hovered(view, 0.2, 0.5) == []
    # An empty field has the default until it is filled.
    number.fill("")
    sentence_is(view, rf"{name}, 64 × 64 pixels: 3 segments{kept}")
    number.press_sequentially("0.98")
    sentence_is(view, rf"{name}, 64 × 64 pixels: 2 segments{kept}")
    view.locator("#task label", has_text="instance").click()
    sentence_is(view, rf"{name}, 64 × 64 pixels: 2 segments{kept}")
    sync_api.expect(number).to_have_value("0.5")
    largest = view.locator("#nms_iou input[type=number]")
    sync_api.expect(largest).to_have_value("1")
    assert hovered(view, 0.8, 0.2) == []
    slider = view.locator("#threshold input[type=range]").bounding_box()
    middle = slider["y"] + slider["height"] / 2
    view.mouse.move(slider["x"] + slider["width"] / 2, middle)
    view.mouse.down()
    view.mouse.move(slider["x"] + slider["width"], middle, steps=8)
    view.mouse.up()
    sentence_is(view, rf"{name}, 64 × 64 pixels: no segments{kept}")
    view.locator("#task label", has_text="semantic").click()
    sentence_is(view, rf"{name}, 64 × 64 pixels: 3 segments\. The network took .* s\.")
    sync_api.expect(number).to_be_hidden()
    sync_api.expect(largest).to_be_hidden()


def test_bad_uploads_are_answered_and_the_page_goes_on(view, photo, tmp_path):
    def file(name, content=b""):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    upload(view, file("notes.txt", b"hello"), r"notes\.txt is no picture .*\.")
    upload(view, file("empty.jpg"), r"empty\.jpg is empty\.")
    sync_api.expect(view.locator("#coco")).to_be_disabled()
    bomb = tmp_path / "bomb.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        Image.new("1", (20_000, 20_000)).save(bomb)
    upload(view, bomb, r"bomb\.png has more than 178,956,970 pixels, .*\.")
    strip = tmp_path / "strip.png"
    Image.new("RGB", (5000, 1), (255, 0, 0)).save(strip)
    upload(view, strip, r"strip\.png, 5000 × 1 pixels: .* segments?\. .*\.")
    assert view.locator("#picture svg").count() == 1
    upload(view, photo, ".*: 3 segments.*")
    sync_api.expect(view.locator("#coco")).to_be_enabled()


def test_port_that_is_taken_is_named(address):
    port = int(address.strip("/").split(":")[-1])
    options = demo.parse_arguments(["--checkpoint=x", f"--port={port}"])
    with gradio.Blocks() as blocks:
        pass
    with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 can't be opened"):
        demo.launch(blocks, options)


def test_command_says_its_address_and_ends_at_a_signal(tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    command = [sys.executable, "-m", "eomt_jax.cli.demo", f"--checkpoint={checkpoint}"]
    with subprocess.Popen(
        [*command, "--compilation_cache="], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            address = re.fullmatch(
                r"The page is at (http://127\.0\.0\.1:\d+/) until you press Ctrl-C\.\n",
                line,
            )[1]
            with urllib.request.urlopen(address, timeout=30) as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def make_checkpoint(folder):
    import jax

    from eomt_jax.weights.native import model_folder
    from tests.predict.test_segmenter import random_eomt

    model, params = random_eomt()
    path = folder / "model.safetensors"
    model_folder.save_file(path, model, jax.device_get(params), dataset_info=INFO)
    return path
