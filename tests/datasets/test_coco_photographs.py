"""Photographs of a user's COCO JSON: their formats, and sizes that EXIF turns."""

import io

import numpy as np
import pytest
from PIL import Image

from eomt_jax.pipeline.transforms import decode_image
from tests.datasets.map_archives import encode


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
