import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from eomt_jax.pictures import hover
from eomt_jax.postprocess.segmentation import Segmentation

SVG = "{http://www.w3.org/2000/svg}"


def painted(svg, size):
    """Returns the position of the group that each cell belongs to, -1 for none."""
    root = ElementTree.fromstring(svg.replace("<svg", f'<svg xmlns="{SVG[1:-1]}"', 1))
    cells = np.full(size, -1)
    for i, path in enumerate(root.iter(f"{SVG}path")):
        runs = re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", path.get("d"))
        for left, top, length, back in np.array(runs, int).reshape(-1, 4):
            assert length == back
            assert (cells[top, left : left + length] == -1).all()
            cells[top, left : left + length] = i
    return cells, [text.text for text in root.iter(f"{SVG}text")], root


def test_paths_cover_each_segments_pixels_once():
    index = np.array([[0, 0, -1, 1], [1, 1, 1, 1], [-1, -1, -1, 0]])
    assert hover._paths(index, 3) == [
        "M0 0h2v1h-2zM3 2h1v1h-1z",
        "M3 0h1v1h-1zM0 1h4v1h-4z",
        "",
    ]


def test_picture_has_each_segment_with_its_text():
    id_map = np.zeros((160, 320), int)
    id_map[:, 160:], id_map[80:, :160] = 1, 2
    found = Segmentation(labels=np.array([0, 1]), id_map=id_map)
    image = np.full((160, 320, 3), 90, np.uint8)
    cells, texts, root = painted(
        hover.hover_picture(image, found, ["<b>cat</b> & dog", "sky"]), (160, 320)
    )
    assert texts == ["<b>cat</b> & dog", "sky"]
    assert (cells == id_map - 1).mean() > 0.99
    url = root.find(f"{SVG}image").get("href")
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as shown:
        assert shown.size == (320, 160)
        assert shown.getpixel((0, 0)) == (90, 90, 90)


def test_small_segment_lies_over_a_large_one():
    masks = np.ones((2, 320, 320), bool)
    masks[0, :100], masks[0, 220:] = False, False
    found = Segmentation(
        labels=np.array([0, 0]), masks=masks, scores=np.array([0.5, 0.9])
    )
    image = np.zeros((320, 320, 3), np.uint8)
    cells, _, _ = painted(hover.hover_picture(image, found, ["a", "b"]), (320, 320))
    assert (cells[105:215] == 0).all()
    assert (cells[:95] == 1).all()


def test_strip_without_segments_has_a_picture():
    found = Segmentation(labels=np.zeros(0, int), id_map=np.zeros((1, 5000), int))
    svg = hover.hover_picture(np.zeros((1, 2048, 3), np.uint8), found, [])
    assert 'viewBox="0 0 320 1"' in svg
