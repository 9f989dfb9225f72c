import numpy as np
import pytest
from PIL import Image

from eomt_jax.pictures import name_plates

RED = np.array([[200, 0, 0]], np.uint8)


def plates(index, names, *, size=(400, 300)):
    """Returns the boxes of the plates on a black picture, by their names."""
    picture = Image.new("RGB", size)
    placed = {}
    original = name_plates._Places.find

    def spy(self, mask, plate_size):
        box = original(self, mask, plate_size)
        if box is not None:
            placed[names[int(index[mask][0])]] = box
        return box

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name_plates._Places, "find", spy)
        colors = np.repeat(RED, len(names), axis=0)
        name_plates.write_names(picture, index, names, colors)
    return placed, np.asarray(picture)


def squares(size, side):
    """Segments in `side` rows and columns on a grid of a picture's proportions."""
    width, height = (round(40 * s / min(size)) for s in size)
    rows, columns = np.arange(height) * side // height, np.arange(width) * side // width
    return rows[:, None] * side + columns


def names_of(count):
    return [f"segment {i}" for i in range(count)]


def overlap(one, other):
    return min(one.right, other.right) > max(one.left, other.left) and min(
        one.bottom, other.bottom
    ) > max(one.top, other.top)


@pytest.mark.parametrize("size", [(400, 300), (1080, 720), (150, 400)])
def test_write_names_never_overlap_and_stay_inside(size):
    columns, rows = 60, 40
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, 1, (12, 2))
    grid = np.stack(np.mgrid[:rows, :columns], -1) / (rows, columns)
    index = np.linalg.norm(grid[..., None, :] - centers, axis=-1).argmin(-1)
    names = [f"segment {i}" for i in range(12)]
    placed, picture = plates(index, names, size=size)
    boxes = list(placed.values())
    assert len(boxes) >= 5
    assert not any(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    for box in boxes:
        assert 0 < box.left < box.right < size[0]
        assert 0 < box.top < box.bottom < size[1]
    drawn = np.zeros(picture.shape[:2], bool)
    for left, top, right, bottom in boxes:
        drawn[top:bottom, left:right] = True
    assert picture[drawn].any() and not picture[~drawn].any()


def test_write_names_letters_are_legible_on_a_phone():
    """Capitals are white on dark, and at least 2.2 % of the long side high."""
    placed, picture = plates(np.zeros((30, 40), int), ["H"], size=(1080, 810))
    left, top, right, bottom = placed["H"]
    plate = picture[top:bottom, left:right].astype(float)
    rows = np.flatnonzero((plate.min(-1) > 200).any(1))
    assert np.ptp(rows) + 1 >= 0.022 * 1080
    ground = np.median(plate.reshape(-1, 3), axis=0) / 255
    dark = ground <= 0.04045
    linear = np.where(dark, ground / 12.92, ((ground + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    assert 1.05 / (luminance + 0.05) > 7, "WCAG's contrast of level AAA"


def test_write_names_many_are_smaller():
    heights = []
    for side in (1, 5, 10):
        index = np.arange(side).repeat(10)[:, None] * side + np.arange(side).repeat(10)
        placed, _ = plates(index, ["H"] * (side * side), size=(1000, 1000))
        heights.append(placed["H"].bottom - placed["H"].top)
    assert heights[0] > heights[1] > heights[2] >= 0.025 * 1000


@pytest.mark.parametrize(
    ("size", "side", "least"),
    [((2000, 250), 8, 20), ((250, 2000), 8, 20), ((640, 480), 8, 20), ((96, 72), 2, 1)],
)
def test_write_names_of_many_segments_leave_the_picture_visible(size, side, least):
    """At least three quarters of it, with as many names on panoramas as elsewhere."""
    placed, picture = plates(squares(size, side), names_of(side**2), size=size)
    assert least <= len(placed) < side**2
    assert (picture > 0).any(-1).mean() <= 1 / 4


@pytest.mark.parametrize("size", [(2000, 250), (250, 2000)])
def test_write_names_of_few_segments_hide_little_of_a_panorama(size):
    """Letters that grew with the long side covered 46 % of the wide one."""
    placed, picture = plates(squares(size, 3), names_of(9), size=size)
    assert len(placed) == 9
    assert (picture > 0).any(-1).mean() < 0.13


def test_write_names_none_where_one_would_hide_the_picture():
    placed, _ = plates(np.zeros((8, 12), int), ["zebra"], size=(48, 32))
    assert not placed


@pytest.mark.parametrize(
    ("size", "side"),
    [((640, 480), 640), ((1080, 1920), 1920), ((4000, 500), 1885.6), ((32, 1), 7.54)],
)
def test_visual_side_of_a_panorama_follows_its_area(size, side):
    assert name_plates.visual_side(size) == pytest.approx(side, rel=1e-3)


def test_write_names_inside_large_segments_beside_small_ones():
    index = np.zeros((60, 80), int)
    index[28:32, 38:43] = 1  # 25 × 20 pixels
    placed, _ = plates(index, ["meadow", "dog"])
    small = name_plates.Box(left=190, top=140, right=215, bottom=160)
    assert not overlap(placed["meadow"], small)
    dog = placed["dog"]
    hidden_width = min(dog.right, small.right) - max(dog.left, small.left)
    hidden_height = min(dog.bottom, small.bottom) - max(dog.top, small.top)
    assert hidden_width <= 5 or hidden_height <= 5, "the dog can be seen"
    gap = max(dog.top - small.bottom, small.top - dog.bottom)
    assert gap < dog.bottom - dog.top, "and is close to its name"


def test_write_names_tiny_segment_gets_none():
    index = np.full((60, 80), -1)
    index[30, 40:44] = 0
    placed, picture = plates(index, ["speck"])
    assert not placed and not picture.any()


def test_write_names_no_free_place(monkeypatch):
    """There is a second name, and the first one fills the picture."""
    monkeypatch.setattr(name_plates, "_MAX_COVERED", 1)
    index = np.zeros((10, 40), int)
    index[:, 20:] = 1
    placed, _ = plates(index, ["left", "right"], size=(60, 22))
    assert len(placed) == 1


def test_write_names_without_segments():
    placed, picture = plates(np.full((10, 40), -1), [])
    assert not placed and not picture.any()


def test_write_names_long_names_are_cut(monkeypatch):
    written = []
    original = name_plates.ImageDraw.ImageDraw.text

    def spy(self, position, text, *args, **kwargs):
        written.append(text)
        return original(self, position, text, *args, **kwargs)

    monkeypatch.setattr(name_plates.ImageDraw.ImageDraw, "text", spy)
    placed, _ = plates(
        np.zeros((30, 40), int), ["a very long name indeed"], size=(90, 90)
    )
    assert placed
    (text,) = written
    assert text.endswith("…") and len(text) > name_plates._SHORTEST
    assert "a very long name indeed".startswith(text[:-1])
    placed, _ = plates(np.zeros((30, 40), int), ["wwwwwwwww"], size=(30, 30))
    assert not placed and len(written) == 1


@pytest.mark.parametrize(
    ("name", "wanted"), [("Löwenzahn", "Lowenzahn"), ("猫", "?"), ("cat", "cat")]
)
def test_names_without_a_font_for_their_letters(monkeypatch, name, wanted):
    monkeypatch.setattr(name_plates, "_SYSTEM_FONTS", ("no such font.ttf",))
    text, font = name_plates.legible(name, 20)
    assert text == wanted and font.size == 20


def test_names_in_a_font_of_the_system(monkeypatch, tmp_path):
    file = tmp_path / "font.ttf"
    file.write_bytes(name_plates.load_font(20).font_bytes)
    monkeypatch.setattr(name_plates, "_SYSTEM_FONTS", ("no such font.ttf", str(file)))
    text, font = name_plates.legible("Löwenzahn", 20)
    assert text == "Löwenzahn" and font.path == str(file)
    _, font = name_plates.legible("cat", 20)
    assert font.path != str(file), "alike anywhere"
