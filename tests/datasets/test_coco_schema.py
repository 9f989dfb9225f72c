"""JSON of any shape is read correctly, or an error names the file and the field."""

import copy
import json

import pytest

from eomt_jax.datasets import coco_instance, coco_panoptic
from eomt_jax.datasets.coco_format import _common_classes
from eomt_jax.datasets.coco_schema import check_table, short
from eomt_jax.datasets.file_finder import FileFinder
from eomt_jax.datasets.sources import open_source
from tests.datasets import coco_archives
from tests.datasets.map_archives import write_files

STRANGE = [
    None,
    True,
    -1,
    2.5,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "\udcff\0",
    [],
    [[[]]],
    [None, -1],
    {},
    {"id": []},
    {"category_id": {}, "image_id": []},
]


def places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        yield (key,)
        if isinstance(child, dict | list):
            # Only the first two elements of a nested list are visited.
            inside = ((key, *place) for place in places(child))
            yield from (p for p in inside if isinstance(p[1], str) or p[1] < 2)


def changed_tables(table):
    for place in places(table):
        *parents, key = place
        for strange in [*STRANGE, "absent"]:
            changed = copy.deepcopy(table)
            holder = changed
            for parent in parents:
                holder = holder[parent]
            if strange == "absent":
                del holder[key]
            else:
                holder[key] = strange
            yield place, strange, json.dumps(changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pictures = coco_archives.draw_pictures(2, size=(24, 32))
    files = {}
    for picture in pictures:
        files[f"photos/{picture.stem}.jpg"] = coco_archives.jpeg(picture.image)
        files[f"pngs/{picture.stem}.png"] = coco_archives.segments_png(picture.id_map)
    root = write_files(tmp_path_factory.mktemp("own"), files)
    return root, pictures


def shrunk(table):
    """Returns the table with only the categories that are used."""
    used = set()
    for row in table["annotations"]:
        used |= {s["category_id"] for s in row.get("segments_info", [row])}
    table["categories"] = [c for c in table["categories"] if c["id"] in used]
    return table


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_changed_field_is_named_or_harmless(folder, kind):
    root, pictures = folder
    make = getattr(coco_archives, f"{kind}_json")
    table = shrunk(make(pictures))
    for row in table["images"]:
        row["date_captured"] = "today"
    counts = {"refused": 0, "read": 0}
    with open_source(root / "photos") as photos, open_source(root / "pngs") as pngs:
        finders = FileFinder(photos), FileFinder(pngs)

        def read(text):
            module = coco_instance if kind == "instances" else coco_panoptic
            found = module.read_table(
                text.encode(), name="mine.json", source="see docs"
            )
            arguments = {"classes": _common_classes([found]), "note": lambda *_: None}
            arguments["turns_upright"] = True
            if kind == "instances":
                reader = coco_instance.InstanceReader(found, finders[0], **arguments)
            else:
                reader = coco_panoptic.PanopticReader(found, *finders, **arguments)
            reader.check_files(reader.images)
            for image in reader.images:
                reader.make_record(image, split="train")

        read(json.dumps(table))
        for place, strange, text in changed_tables(table):
            try:
                read(text)
                counts["read"] += 1
            except ValueError as error:
                counts["refused"] += 1
                message = str(error)
                assert len(message) < 1000, (place, strange)
                assert (
                    "mine.json" in message
                    or "photos" in message
                    or any(picture.stem in message for picture in pictures)
                ), (place, strange, message)
                for foreign in ("KeyError", "TypeError", "unhashable", "no JSON"):
                    assert foreign not in message, (place, strange, message)
    assert counts["refused"] > 200
    assert counts["read"] > 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "images is None, not a list"),
        ({"categories": {}}, "categories is {}, not a list"),
        ({"images": [5]}, r"images\[0\] is wrong: it is no object"),
        ({"images": [{"id": 1}]}, r"images\[0\] is wrong: file_name is missing"),
        (
            {"images": [{"id": [1], "file_name": "a.jpg"}]},
            r"images\[0\] is wrong: id is \[1\], not a whole number or a text",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.jpg", "height": 1e300}]},
            r"height is 1e\+300, not a whole number of 0 to 1,048,576",
        ),
        (
            {"categories": [{"id": True, "name": "a"}]},
            r"categories\[0\] is wrong: id is True, not a whole number",
        ),
        (
            {"categories": [{"id": 1, "name": "a", "isthing": "no"}]},
            "isthing is 'no', not 0 or 1",
        ),
        (
            {"categories": [{"id": 1, "name": "a", "supercategory": []}]},
            r"supercategory is \[\], not a text",
        ),
    ],
)
def test_wrong_field_is_named_with_its_value(change, message):
    table = {"images": [], "annotations": [], "categories": []}
    check_table(table)
    with pytest.raises(ValueError, match=message):
        check_table(table | change)


def test_sizes_in_words_and_with_a_point_are_numbers():
    row = {"id": 1.0, "file_name": "a.jpg", "height": "480", "width": 640.0}
    check_table({"images": [row], "annotations": [], "categories": []})
    assert (row["height"], row["width"]) == (480, 640)


def test_short_bounds_any_value():
    nested, wide = [], "x" * 99
    for _ in range(900):
        nested = [nested]
    for _ in range(9):
        wide = [wide] * 9
    for value in ("x" * 10**6, 10**4000, list(range(10**6)), nested, wide):
        assert len(short(value)) <= 200


@pytest.mark.parametrize(
    "text", ['{"images":' * 100_000, "[" * 100_000, "9" * 5000, ""]
)
def test_text_that_cannot_be_parsed_names_the_file(text):
    for module in (coco_instance, coco_panoptic):
        with pytest.raises(ValueError, match=r"^mine\.json is not COCO's"):
            module.read_table(text.encode(), name="mine.json", source="see docs")
