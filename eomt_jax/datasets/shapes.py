"""Shapes: a small synthetic panoptic set, drawn and not downloaded.

Two or three textures (stuff) divide each picture; two to four things lie on them and
hide parts of one another. The things' colours are random: outline and relief (round,
framed, folded) say the thing class; texture and a pale hue of its own say the stuff
class. What can be learnt from scratch in a few minutes decides how hard the set is:
things stand nearly upright, and none is mostly hidden. Every picture is a function of
its split and index.

Legend: S side of the picture in pixels, coordinates in pixels as (y, x).
"""

import colorsys
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
from PIL import Image

from eomt_jax.datasets.builder import RecordBuilder
from eomt_jax.pipeline.records import Record
from eomt_jax.types import ClassInfo

NUM_EXAMPLES = {"train": 2048, "validation": 128}
MAX_TILT = 0.25  # radians to either side
MIN_VISIBLE = 0.6  # of a thing's own pixels; a thing hidden further is no target
CLASSES = (
    ClassInfo(1, "circle", True, (226, 74, 51)),
    ClassInfo(2, "square", True, (52, 138, 189)),
    ClassInfo(3, "triangle", True, (251, 193, 94)),
    ClassInfo(4, "stripes", False, (122, 104, 166)),
    ClassInfo(5, "checkers", False, (70, 120, 33)),
    ClassInfo(6, "clouds", False, (150, 190, 205)),
)
_NUM_THING_CLASSES = 3


@dataclasses.dataclass(frozen=True)
class Scene:
    """Sizes of a picture and of what it shows, in pixels.

    Attributes:
      size: S, both sides of the picture.
      num_things: least and largest number of things.
      thing_size: least and largest side of a thing's bounding box.
      min_stuff_pixels: each region of stuff has at least as many pixels in sight.
    """

    size: int = 96
    num_things: tuple[int, int] = (2, 4)
    thing_size: tuple[float, float] = (28.0, 46.0)
    min_stuff_pixels: int = 300


SCENE = Scene()
CROWDED = Scene(size=128, num_things=(8, 14), thing_size=(14.0, 28.0))


class Shapes(RecordBuilder):
    """Builder of the embedded default dataset."""

    classes = CLASSES
    image_format = "png"
    description = "Geometric things on textured stuff, drawn deterministically."
    scene: ClassVar[Scene] = SCENE

    def plan(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        return {
            split: [(split, i) for i in range(n)] for split, n in NUM_EXAMPLES.items()
        }

    def make_record(self, item: tuple[str, int]) -> Record:
        return draw_record(*item, self.scene)


class ShapesCrowded(Shapes):
    """Builder of larger pictures with more and smaller things, which hide one another."""

    scene = CROWDED


def draw_record(split: str, index: int, scene: Scene = SCENE) -> Record:
    """Draws picture `index` of `split` with its segments, things first."""
    rng = np.random.default_rng([list(NUM_EXAMPLES).index(split), index])
    drawn = None
    while drawn is None:
        drawn = _draw_scene(rng, scene)
    image, segment_map, labels = drawn
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    return Record(
        image_bytes=encoded.getvalue(),
        segment_map=segment_map,
        labels=np.array(labels, np.int32),
        is_crowd=np.zeros(len(labels), np.bool_),
        image_id=f"{split}_{index:05d}",
        height=scene.size,
        width=scene.size,
    )


def _draw_scene(
    rng: np.random.Generator, scene: Scene
) -> tuple[np.ndarray, np.ndarray, list[int]] | None:
    """Returns (image, segment_map, labels); None if too little stuff stays in sight."""
    least, largest = scene.num_things
    things = _place_things(rng, scene, count=int(rng.integers(least, largest + 1)))
    regions = _split_background(rng, scene.size, count=int(rng.integers(2, 4)))
    stuff_labels = _NUM_THING_CLASSES + rng.permutation(3)[: regions.max() + 1]

    canvas = np.zeros((scene.size, scene.size, 3))
    for region, label in enumerate(stuff_labels):
        texture = _TEXTURES[label - _NUM_THING_CLASSES](rng, scene.size)
        canvas = np.where((regions == region)[..., None], texture, canvas)
    segment_map = (regions + len(things) + 1).astype(np.uint16)
    for number, thing in enumerate(things):
        canvas = thing.paint(canvas)
        segment_map[thing.mask] = number + 1

    labels = [thing.label for thing in things] + stuff_labels.tolist()
    pixels = np.bincount(segment_map.ravel(), minlength=len(labels) + 1)
    if pixels[len(things) + 1 :].min() < scene.min_stuff_pixels:
        return None
    return np.round(255 * canvas.clip(0, 1)).astype(np.uint8), segment_map, labels


@dataclasses.dataclass(frozen=True)
class _Thing:
    """A shape of one colour.

    Attributes:
      label: class index.
      distance: [S, S] signed distance to the outline in pixels, negative inside.
      relief: [S, S] factor of the colour's brightness.
      color: RGB in [0, 1].
    """

    label: int
    distance: np.ndarray
    relief: np.ndarray
    color: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """bool [S, S]"""
        return self.distance < 0

    def paint(self, canvas: np.ndarray) -> np.ndarray:
        """Paints the thing's shadow, body and rim on the canvas [S, S, 3]."""
        shadow = np.pad(self.distance, ((2, 0), (2, 0)), mode="edge")[:-2, :-2]
        canvas = canvas * (1 - 0.35 * _coverage(shadow, softness=4.0))
        inside_rim = _coverage(self.distance + 2.0)
        body = self.color * self.relief[..., None] * (0.62 + 0.38 * inside_rim)
        cover = _coverage(self.distance)
        return canvas * (1 - cover) + body * cover


def _coverage(distance: np.ndarray, softness: float = 1.0) -> np.ndarray:
    """Returns each pixel's share [S, S, 1] inside an outline with a soft edge.

    The edge is `softness` wide.
    """
    return np.clip(0.5 - distance / softness, 0, 1)[..., None]


def _place_things(
    rng: np.random.Generator, scene: Scene, *, count: int
) -> list[_Thing]:
    """Returns `count` things, back to front, each at least MIN_VISIBLE in sight."""
    things: list[_Thing] = []
    while len(things) < count:
        proposal = [*things, _random_thing(rng, scene)]
        if _least_visible(proposal) >= MIN_VISIBLE:
            things = proposal
    return things


def _least_visible(things: Sequence[_Thing]) -> float:
    hidden = np.zeros_like(things[0].mask)
    least = 1.0
    for thing in reversed(things):
        mask = thing.mask
        least = min(least, (mask & ~hidden).sum() / mask.sum())
        hidden |= mask
    return least


def _random_thing(rng: np.random.Generator, scene: Scene) -> _Thing:
    size = rng.uniform(*scene.thing_size)
    y, x = rng.uniform(size / 2 - 2, scene.size - size / 2 + 2, 2)
    label = int(rng.integers(_NUM_THING_CLASSES))
    tilt = rng.uniform(-MAX_TILT, MAX_TILT)
    rows, columns = centres = _pixel_centres(scene.size)
    if label == 0:
        distance = np.hypot(rows - y, columns - x) - size / 2
        lit = np.hypot(rows - y + size / 6, columns - x + size / 6) / size
        relief = 1.2 - 0.9 * lit
    elif label == 1:
        distance = _polygon_distance(centres, 4, size, np.pi / 4 + tilt, centre=(y, x))
        inside_frame = _coverage(distance + size / 5)[..., 0]
        relief = 1.1 - 0.55 * inside_frame
    else:
        distance = _polygon_distance(centres, 3, size, -np.pi / 2 + tilt, centre=(y, x))
        right_of_fold = (columns - x) * np.cos(tilt) + (rows - y) * np.sin(tilt)
        relief = 1.1 - 0.5 * np.clip(right_of_fold + 0.5, 0, 1)
    color = colorsys.hsv_to_rgb(
        rng.uniform(), rng.uniform(0.65, 0.95), rng.uniform(0.8, 1.0)
    )
    return _Thing(label, distance, relief, np.array(color))


def _polygon_distance(
    centres: tuple[np.ndarray, np.ndarray],
    corners: int,
    size: float,
    angle: float,
    *,
    centre: tuple[float, float],
) -> np.ndarray:
    """Returns the distance [S, S] of a regular polygon with a box `size` wide.

    Each side's half-plane has its own distance and the largest counts; that is exact
    inside and near the sides, which is all that is drawn.
    """
    rows, columns = centres
    vertices = angle + 2 * np.pi * np.arange(corners) / corners
    extent = max(np.ptp(np.sin(vertices)), np.ptp(np.cos(vertices)))
    radius = size / extent
    normals = vertices + np.pi / corners
    sides = [
        (rows - centre[0]) * np.sin(n) + (columns - centre[1]) * np.cos(n)
        for n in normals
    ]
    return np.max(sides, axis=0) - radius * np.cos(np.pi / corners)


def _pixel_centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    return rows, columns


def _split_background(rng: np.random.Generator, size: int, *, count: int) -> np.ndarray:
    """Returns which of `count` regions each pixel belongs to, int [S, S].

    The first line runs anywhere near the middle. A third region cuts one of the two
    halves by a line across the first.
    """
    rows, columns = (c / size - 0.5 for c in _pixel_centres(size))
    angle = rng.uniform(0, 2 * np.pi)
    across = rows * np.cos(angle) + columns * np.sin(angle)
    regions = (across > rng.uniform(-0.15, 0.15)).astype(int)
    if count == 3:
        turned = angle + np.pi / 2 + rng.uniform(-0.5, 0.5)
        along = rows * np.cos(turned) + columns * np.sin(turned)
        regions[(regions == 1) & (along > rng.uniform(-0.1, 0.1))] = 2
    return regions


def _two_tones(rng: np.random.Generator, hue: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns a dark and a light tone near `hue`, both pale, unlike those of things."""
    hue += rng.uniform(-0.05, 0.05)
    dark = colorsys.hsv_to_rgb(hue, rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.55))
    light = colorsys.hsv_to_rgb(hue, rng.uniform(0.08, 0.2), rng.uniform(0.8, 0.95))
    return np.array(dark), np.array(light)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = _pixel_centres(size)
    angle, period = rng.uniform(0, np.pi), rng.uniform(7, 10)
    phase = (rows * np.cos(angle) + columns * np.sin(angle)) / period + rng.uniform()
    return _blend(rng, 0.75, np.sin(2 * np.pi * phase) * period / 2)


def _checkers(rng: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = _pixel_centres(size)
    angle, period = rng.uniform(0, np.pi / 2), rng.uniform(11, 15)
    u = np.sin(2 * np.pi * (rows * np.cos(angle) + columns * np.sin(angle)) / period)
    v = np.sin(2 * np.pi * (columns * np.cos(angle) - rows * np.sin(angle)) / period)
    return _blend(rng, 0.28, u * v * period / 2)


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    coarse = rng.uniform(0, 1, (6, 6)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    return _blend(rng, 0.56, np.asarray(smooth) - 0.5)


def _blend(rng: np.random.Generator, hue: float, amount: np.ndarray) -> np.ndarray:
    """Returns [S, S, 3] from dark at amount -0.5 to light at 0.5, clipped beyond."""
    dark, light = _two_tones(rng, hue)
    share = np.clip(amount + 0.5, 0, 1)[..., None]
    return dark + (light - dark) * share


_TEXTURES: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    _stripes,
    _checkers,
    _clouds,
)
