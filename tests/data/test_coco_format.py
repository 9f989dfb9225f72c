"""A user's own dataset in COCO's formats is read, or refused with a reason."""

import io
import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from data import prepare
from eomt_jax.class_colors import distinct_color
from eomt_jax.dataset_info.class_tables import make_class_table
from eomt_jax.pipeline import records
from eomt_jax.pipeline.transforms import decode_image
from tests.data import coco_archives
from tests.data.coco_archives import zip_bytes
from tests.data.map_archives import encode


class OwnData:
    """Pictures in a user's folder, and the dataset prepared from it.

    Photographs have the names photo_0.jpg …, and ids from 7 on.
    """

    def __init__(self, folder):
        self.folder = folder
        self.data_dir = folder / "prepared"
        self.pictures = coco_archives.draw_pictures(6)
        self.photographs = {
            f"photo_{i}.jpg": coco_archives.jpeg(p.image)
            for i, p in enumerate(self.pictures)
        }
        self.maps = {
            f"photo_{i}.png": coco_archives.segments_png(p.id_map)
            for i, p in enumerate(self.pictures)
        }
        ids = {p.image_id: 7 + i for i, p in enumerate(self.pictures)}
        self.panoptic = coco_archives.panoptic_json(self.pictures)
        self.instances = coco_archives.instances_json(self.pictures)
        for table in (self.panoptic, self.instances):
            for row in table["images"]:
                row["id"] = ids[row["id"]]
                row["file_name"] = f"photo_{row['id'] - 7}.jpg"
            for row in table["annotations"]:
                row["image_id"] = ids[row["image_id"]]
                if "file_name" in row:
                    row["file_name"] = f"photo_{row['image_id'] - 7}.png"

    def write(self, name, content):
        """Writes a JSON, zip archive or folder of `content`; returns its path."""
        path = self.folder / name
        if name.endswith(".json"):
            path.write_text(json.dumps(content))
        elif name.endswith(".zip"):
            path.write_bytes(zip_bytes(content))
        else:
            for file, data in content.items():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_bytes(data)
        return str(path)

    def build(self, **options):
        options.setdefault("images", str(self.folder / "photos"))
        return prepare.prepare("mine", self.data_dir, builder="coco_format", **options)

    def build_instances(self, **options):
        self.write("photos", self.photographs)
        options.setdefault("annotations", self.write("mine.json", self.instances))
        return self.build(**options)

    def open(self, split):
        return list(records.open_split(self.data_dir, "mine", split))


@pytest.fixture
def own(tmp_path):
    return OwnData(tmp_path)


def assert_refused(own, match, **options):
    with pytest.raises(ValueError, match=match):
        own.build(**options)
    assert [f for f in own.data_dir.rglob("*") if f.is_file()] == []


def test_instances_with_random_split(own):
    own.instances["categories"].reverse()
    info = own.build_instances(validation=0.3)

    assert (info.name, info.task) == ("mine", "instance")
    assert info.num_examples == {"train": 4, "validation": 2}
    assert [c.id for c in info.classes] == sorted(c.id for c in info.classes)
    assert all(c.is_thing for c in info.classes)
    assert len({c.color for c in info.classes}) == 80
    held_out = own.open("validation")
    everything = own.open("train") + held_out
    assert {r.image_id for r in everything} == {str(i) for i in range(7, 13)}
    objects = {i: [] for i in range(7, 13)}
    for row in own.instances["annotations"]:
        objects[row["image_id"]].append(row)
    for record in everything:
        rows = objects[int(record.image_id)]
        assert record.file_name == f"photo_{int(record.image_id) - 7}.jpg"
        assert record.image_bytes == own.photographs[record.file_name]
        assert record.areas.tolist() == [row["area"] for row in rows]
        categories = [info.classes[label].id for label in record.labels]
        assert categories == [row["category_id"] for row in rows]

    own.build_instances(validation=0.3, split_seed=1, overwrite=True)
    assert [r.image_id for r in own.open("validation")] != [
        r.image_id for r in held_out
    ]


def test_panoptic_with_splits_of_its_own_in_folders_and_archives(own):
    first = {f"photo_{i}" for i in range(4)}
    tables = {"train": dict(own.panoptic), "validation": dict(own.panoptic)}
    for split, table in tables.items():
        table["annotations"] = [
            row
            for row in own.panoptic["annotations"]
            if (row["file_name"][:-4] in first) == (split == "train")
        ]
    deep = {f"export/images/{name}": data for name, data in own.photographs.items()}
    info = own.build(
        images=own.write("photos.zip", deep),
        annotations=f"train={own.write('t.json', tables['train'])},"
        f"validation={own.write('v.json', tables['validation'])}",
        segments=own.write("segments", own.maps),
    )

    assert (info.task, info.num_examples) == ("panoptic", {"train": 4, "validation": 2})
    assert sum(c.is_thing for c in info.classes) == 80
    for split in ("train", "validation"):
        for record in own.open(split):
            picture = own.pictures[int(record.image_id) - 7]
            assert record.file_name == f"photo_{int(record.image_id) - 7}.jpg"
            for number, segment in enumerate(picture.segments):
                np.testing.assert_array_equal(
                    record.segment_map == number + 1, picture.id_map == segment["id"]
                )
            assert len(record.labels) == len(picture.segments)


def test_three_splits_two_of_them_drawn_from_training(own, caplog):
    night = {**own.instances, "images": [], "annotations": []}
    for key, field in (("images", "id"), ("annotations", "image_id")):
        night[key] = [row for row in own.instances[key] if row[field] < 9]
    info = own.build_instances(
        annotations=f"train={own.write('t.json', own.instances)},"
        f"night={own.write('n.json', night)}",
        validation=0.2,
        test=0.3,
    )
    assert info.num_examples == {"train": 3, "night": 2, "validation": 1, "test": 2}
    assert {r.image_id for r in own.open("night")} == {"7", "8"}
    note = "2 photographs of both train and night (photo_0.jpg, photo_1.jpg)"
    assert note in caplog.text


def test_colors_of_the_json_are_kept(own):
    own.instances["categories"][3]["color"] = [1, 2, 3]
    assert own.build_instances().classes[3].color == (1, 2, 3)


def test_roboflow_group_is_no_class(own, caplog):
    """Roboflow adds a category 0 without objects, here with the name of another one."""
    for row in own.instances["categories"]:
        row["supercategory"] = "person"
    group = {"id": 0, "name": "person", "supercategory": "none"}
    own.instances["categories"].insert(0, group)
    own.instances["annotations"][0]["category_id"] = 1  # the person
    info = own.build_instances()
    assert len(info.classes) == 80
    assert info.classes[0].id == 1
    assert "1 categories that only group others, left out (person)" in caplog.text


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("#ff8000", (255, 128, 0)),
        ("#ff8000ff", (255, 128, 0)),
        ("#0f0", (0, 255, 0)),
        ("red", (255, 0, 0)),
        ([1, 2, 3, 255], (1, 2, 3)),
    ],
)
def test_colors_may_be_texts(text, color):
    rows = [{"id": 1, "name": "a", "color": text}]
    assert make_class_table(rows, file="x")[0].color == color


def test_text_that_is_no_color_is_replaced_with_a_warning(caplog):
    rows = [{"id": 1, "name": "a", "color": "rosé"}]
    assert make_class_table(rows, file="x.json")[0].color == distinct_color(0)
    assert "x.json: the color 'rosé' is none; another is taken" in caplog.text


@pytest.mark.parametrize("form", ["NFD", "letter case", "backslash"])
def test_files_are_found_in_other_spellings(own, form, caplog):
    name = {"NFD": "é_{}.jpg", "letter case": "IMG_{}.JPG", "backslash": "x_{}.jpg"}
    on_disk = {}
    for row in own.instances["images"]:
        content = own.photographs[row["file_name"]]
        file = name[form].format(row["id"])
        row["file_name"] = f"images\\{file}" if form == "backslash" else file
        on_disk[unicodedata.normalize("NFD", file.lower())] = content
    own.photographs = on_disk
    assert own.build_instances().num_examples == {"train": 5, "validation": 1}
    assert {r.image_id for r in own.open("train")} < {str(i) for i in range(7, 13)}
    assert "files found under names that differ in letter case, accents" in caplog.text


def test_names_that_differ_in_letter_case_alone_stay_two(own):
    own.photographs["PHOTO_0.jpg"] = own.photographs["photo_1.jpg"]
    own.build_instances()
    for record in own.open("train") + own.open("validation"):
        name = f"photo_{int(record.image_id) - 7}.jpg"
        assert record.image_bytes == own.photographs[name]


def test_damaged_photographs_are_left_out_on_request(own, caplog):
    own.photographs["photo_1.jpg"] = own.photographs["photo_1.jpg"][:-99]
    own.photographs["photo_2.jpg"] = b"<html>"
    images = own.write("photos.zip", own.photographs)
    packed = bytearray((own.folder / "photos.zip").read_bytes())
    start = packed.index(own.photographs["photo_3.jpg"])
    packed[start + 200] ^= 1  # a checksum fails
    (own.folder / "photos.zip").write_bytes(packed)
    info = own.build_instances(skip_damaged=True, images=images)
    assert sum(info.num_examples.values()) == 3
    note = "3 damaged photographs, left out (photo_1.jpg can't be decoded (image file"
    assert note in caplog.text
    assert "photo_2.jpg is no picture that can be read (unknown form" in caplog.text


@pytest.mark.parametrize(
    ("format", "options"),
    [("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {}), ("PNG 16", {})],
)
def test_photographs_of_other_formats_are_taken(own, format, options):
    """Picture 0 is turned by EXIF if the format has EXIF."""
    picture = own.pictures[0].image
    expected = picture
    if format == "PNG 16":
        wide = picture[..., 0].astype(np.uint16) << 8 | 0x34
        own.photographs["photo_0.jpg"] = encode(wide)
        expected = np.repeat(picture[..., :1], 3, axis=-1)
    elif format == "WEBP":
        exif = Image.Exif()
        exif[0x0112] = 6
        own.photographs["photo_0.jpg"] = encode(
            np.rot90(picture), format, exif=exif, **options
        )
    else:
        own.photographs["photo_0.jpg"] = encode(picture, format, **options)
    own.build_instances()
    everything = own.open("train") + own.open("validation")
    record = next(r for r in everything if r.image_id == "7")
    image = decode_image(record.image_bytes, size=record.size)  # as training does
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_photographs_that_exif_turns_lie_as_they_were_annotated(own):
    """The first three are annotated upright, and the last one as it is stored."""
    turned = {}
    for i, orientation in enumerate([6, 8, 3, 6]):
        picture = own.pictures[i]
        steps = {6: 1, 8: -1, 3: 2}[orientation] if i < 3 else 0
        image = Image.fromarray(np.rot90(picture.image, steps))
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=95, exif=exif)
        turned[f"photo_{i}.jpg"] = stream.getvalue()
    own.photographs.update(turned)
    own.build_instances()

    for record in own.open("train") + own.open("validation"):
        number = int(record.image_id) - 7
        picture = own.pictures[number]
        image = np.asarray(Image.open(io.BytesIO(record.image_bytes)))
        assert image.shape == picture.image.shape
        # A JPEG of a few colours is close on average, unless it is turned wrongly.
        assert np.abs(image.astype(int) - picture.image).mean() < 8
        if number >= 3:
            assert record.image_bytes == own.photographs[f"photo_{number}.jpg"]


def stored_with(picture, orientation, steps):
    """Returns a JPEG of a picture that is turned by `steps` quarters for storage."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(np.rot90(picture.image, steps), "JPEG", exif=exif, quality=95)


def describe_as_stored(own, number):
    """Writes photograph `number`'s size before EXIF turns it into the JSON."""
    row = next(r for r in own.instances["images"] if r["id"] == 7 + number)
    row["height"], row["width"] = row["width"], row["height"]


def set_outline(own, number, corners):
    """Sets the only object of photograph `number` to `corners`."""
    rows = [a for a in own.instances["annotations"] if a["image_id"] == 7 + number]
    for row in rows[1:]:
        own.instances["annotations"].remove(row)
    rows[0].update(segmentation=[corners], iscrowd=0, bbox=None)
    del rows[0]["area"]


def test_stored_sizes_beside_upright_corners_are_turned(own, caplog):
    """Pictures of 48 x 64 px are stored and described turned; one object fits both."""
    for i in (1, 2):
        own.photographs[f"photo_{i}.jpg"] = stored_with(own.pictures[i], 6, 1)
        describe_as_stored(own, i)
    set_outline(own, 1, [50, 10, 62, 10, 62, 20, 50, 20])  # of 64 columns
    set_outline(own, 2, [4, 4, 20, 4, 20, 20, 4, 20])
    own.build_instances()

    records = {r.image_id: r for r in own.open("train") + own.open("validation")}
    for number, region in ((1, np.s_[10:20, 50:62]), (2, np.s_[4:20, 4:20])):
        record = records[str(7 + number)]
        assert record.size == (48, 64)
        expected = np.zeros((48, 64), bool)
        expected[region] = True
        np.testing.assert_array_equal(record.masks()[..., 0], expected)
        image = np.asarray(Image.open(io.BytesIO(record.image_bytes)))
        assert np.abs(image.astype(int) - own.pictures[number].image).mean() < 8
    assert (
        "2 photographs whose annotations fit as EXIF turns it, beside a size as stored"
    ) in caplog.text
    assert "2 photographs turned as their EXIF says" in caplog.text


def test_upright_sizes_beside_stored_corners_stay_as_stored(own, caplog):
    """Picture 1 is stored with 48 x 64 px, and its size is written as upright."""
    own.photographs["photo_1.jpg"] = stored_with(own.pictures[1], 6, 0)
    describe_as_stored(own, 1)
    set_outline(own, 1, [50, 10, 62, 10, 62, 20, 50, 20])
    own.build_instances()
    record = next(
        r for r in own.open("train") + own.open("validation") if r.image_id == "8"
    )
    assert record.image_bytes == own.photographs["photo_1.jpg"]
    assert record.size == (48, 64)
    assert record.areas.tolist() == [120]
    assert "fit as stored, beside a size as EXIF turns it (8)" in caplog.text


def test_objects_that_leave_their_photograph_are_counted(own, caplog):
    set_outline(own, 1, [50, 10, 70, 10, 70, 20, 50, 20])
    set_outline(own, 2, [-0.5, 0, 64.5, 0, 64.5, 20, -0.5, 20])  # on the border
    own.build_instances()
    first = own.instances["annotations"][0]["id"]
    assert (
        "1 objects that reach outside of their photograph, cut off there (id"
        in caplog.text
    )
    assert f"id {first} of photo_0" not in caplog.text


def test_images_without_width_and_height_have_their_photographs(own, caplog):
    for row in own.instances["images"]:
        del row["height"], row["width"]
    own.photographs["photo_1.jpg"] = stored_with(own.pictures[1], 6, 1)
    set_outline(own, 1, [50, 10, 62, 10, 62, 20, 50, 20])
    own.build_instances()
    for record in own.open("train") + own.open("validation"):
        assert record.size == own.pictures[int(record.image_id) - 7].id_map.shape
    assert "6 images without width and height, taken from their ph" in caplog.text


def test_crowds_are_counted_and_may_be_objects(own, caplog):
    for row in own.instances["annotations"]:
        row["iscrowd"] = int(row["id"] % 2)
    total = len(own.instances["annotations"])
    own.build_instances()
    assert f"{(total + 1) // 2} of {total} segments are crowds (iscrowd = 1)" in (
        caplog.text
    )
    assert "--crowds_as_objects counts them as objects" in caplog.text
    caplog.clear()
    own.build_instances(crowds_as_objects=True, overwrite=True)
    records = own.open("train") + own.open("validation")
    assert sum(len(r.labels) for r in records) == total
    assert not any(r.is_crowd.any() for r in records)
    assert "crowds" not in caplog.text


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"segmentation": []}, "5 of its 5 annotations have no mask .*boxes alone"),
        ({"iscrowd": 1}, "gives its 6 photographs crowds alone.*--crowds_as_objects"),
    ],
)
def test_annotations_of_which_none_can_be_learnt_say_why(own, change, match):
    own.instances["annotations"] = own.instances["annotations"][:5]
    for row in own.instances["annotations"]:
        row.update(change)
    own.write("photos", own.photographs)
    assert_refused(own, match, annotations=own.write("mine.json", own.instances))


def test_panoptic_annotations_that_are_empty_say_so(own):
    for row in own.panoptic["annotations"]:
        row["segments_info"] = []
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "the segments_info of all its 6 annotations are empty",
        annotations=own.write("mine.json", own.panoptic),
        segments=own.write("segments", own.maps),
    )


def test_photographs_without_annotation_are_left_out_and_named(own, caplog):
    own.photographs["other.jpg"] = own.photographs["photo_0.jpg"]
    own.instances["annotations"] = [
        a for a in own.instances["annotations"] if a["image_id"] != 7
    ]
    info = own.build_instances()

    assert sum(info.num_examples.values()) == 5
    assert "1 photographs without a segment, left out (7)" in caplog.text
    assert "without annotation, left out (other.jpg)" in caplog.text


def test_photographs_without_objects_are_trained_on_when_asked(own, caplog):
    own.instances["annotations"] = [
        a for a in own.instances["annotations"] if a["image_id"] not in (7, 8)
    ]
    assert own.build_instances(negatives=True, validation=0).num_examples["train"] == 6
    assert [len(r.labels) for r in own.open("train")][:2] == [0, 0]
    assert "2 train photographs without an object, kept as negatives (7, 8)" in (
        caplog.text
    )
    segments = own.write("segments", own.maps)
    with pytest.raises(ValueError, match="--negatives is for instances"):
        own.build_instances(negatives=True, segments=segments, overwrite=True)


def test_wrong_kind_of_json_is_named(own):
    own.write("photos", own.photographs)
    panoptic = own.write("panoptic.json", own.panoptic)
    instances = own.write("instances.json", own.instances)
    segments = own.write("segments.zip", own.maps)
    assert_refused(
        own, "panoptic.json is not COCO's instances.*--segments", annotations=panoptic
    )
    assert_refused(
        own,
        "instances.json is not COCO's panoptic format.*without --segments",
        annotations=instances,
        segments=segments,
    )


def test_paths_that_do_not_fit_are_named(own):
    own.write("photos", own.photographs)
    mine = own.write("mine.json", own.instances)
    assert_refused(
        own, "--annotations=nowhere.json is no file", annotations="nowhere.json"
    )
    assert_refused(own, "nowhere is neither", annotations=mine, images="nowhere")
    assert_refused(
        own,
        "--images=train=a is not for the splits.*train=PATH,validation=PATH",
        annotations=f"train={mine},validation={mine}",
        images="train=a",
    )


def test_categories_that_differ_between_splits_are_named(own):
    own.write("photos", own.photographs)
    train = own.write("train.json", own.instances)
    own.instances["categories"][0]["name"] = "people"
    validation = own.write("validation.json", own.instances)
    assert_refused(
        own,
        r"train.json and validation.json differ in the categories 1 \(person\)",
        annotations=f"train={train},validation={validation}",
    )


@pytest.mark.parametrize(
    ("category", "match"),
    [
        ({"id": 1, "name": "person"}, "two classes with the id 1"),
        ({"id": 99, "name": "person"}, "two classes with the name person"),
        ({"id": "1", "name": "x"}, "a whole number as id"),
        ({"name": "x"}, "categories.80. is wrong: id is missing"),
        ({"id": 99, "name": "x", "color": [1, 2, 300]}, r"a color is \[R, G, B\]"),
    ],
)
def test_categories_that_are_wrong_are_named(own, category, match):
    own.instances["categories"].append(category)
    own.write("photos", own.photographs)
    assert_refused(own, match, annotations=own.write("mine.json", own.instances))


def test_photographs_that_cannot_be_used_are_named_together(own):
    own.photographs["photo_1.jpg"] = b""
    own.photographs["photo_2.jpg"] = own.photographs["photo_2.jpg"][:-99]
    own.photographs["photo_4.jpg"] = own.photographs["photo_3.jpg"]
    own.write("photos", own.photographs)
    with pytest.raises(ValueError, match="photo") as error:
        own.build_instances()
    assert "photo_1.jpg is empty; --skip_damaged leaves such" in str(error.value)
    assert "photo_2.jpg can't be decoded" in str(error.value)
    assert "photo_4.jpg has 64 x 48 pixels, but its annotation says 48 x 64" in str(
        error.value
    )


def test_photographs_that_are_missing_or_not_unique_are_named(own):
    mine = own.write("mine.json", own.instances)
    moved = own.photographs.pop("photo_0.jpg")
    own.photographs.update({"a/photo_0.jpg": moved, "b/photo_0.jpg": moved})
    del own.photographs["photo_3.jpg"]
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "annotates 2 files that .*: photo_0.jpg, photo_3.jpg",
        annotations=f"train={mine}",
    )


def test_file_that_two_names_would_share_is_refused(own):
    """One of cam1/0.jpg and cam2/0.jpg is missing; the other isn't taken for it."""
    for row in own.instances["images"]:
        if row["id"] < 9:
            row["file_name"] = f"cam{row['id'] - 6}/0.jpg"
    own.photographs["cam1/0.jpg"] = own.photographs.pop("photo_0.jpg")
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "annotates cam2/0.jpg, which .* lacks: .* cam1/0.jpg, is also what cam1/0.jpg",
        annotations=own.write("mine.json", own.instances),
    )


def test_photograph_with_two_rows_is_refused(own):
    own.instances["images"].append({**own.instances["images"][-1], "id": 99})
    own.write("photos", own.photographs)
    assert_refused(
        own,
        "two images have the file_name photo_0.jpg",
        annotations=own.write("mine.json", own.instances),
    )


def test_image_with_two_panoptic_annotations_is_refused(own):
    own.panoptic["annotations"].append(own.panoptic["annotations"][0])
    own.write("photos", own.photographs)
    assert_refused(
        own,
        r"two annotations are of image_id 7 \(photo_0.jpg\)",
        annotations=own.write("mine.json", own.panoptic),
        segments=own.write("segments", own.maps),
    )


def test_random_split_trains_on_photographs_with_crowds_alone(own):
    for row in own.instances["annotations"]:
        row["iscrowd"] = int(row["image_id"] > 8)
    own.build_instances(validation=0.5)
    assert {r.image_id for r in own.open("validation")} < {"7", "8"}
    assert len(own.open("train")) == 5


def test_photograph_in_another_format_is_named(own):
    own.photographs["photo_0.jpg"] = b"%!PS-Adobe-3.0 EPSF-3.0\n"
    own.photographs["photo_1.jpg"] = coco_archives.segments_png(own.pictures[1].id_map)[
        :20
    ]
    with pytest.raises(ValueError, match="photo_0.jpg is no picture") as error:
        own.build_instances()
    assert "photo_1.jpg is no picture" in str(error.value)
