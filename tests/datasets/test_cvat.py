"""Labels of CVAT for images 1.1 are read: https://docs.cvat.ai/docs/other/xml_format."""

import pytest

from tests.datasets.tool_exports import boxes, build, photograph, write

LABELS = """<labels>
<label><name>Wagen</name><color>#ff8000</color><attributes></attributes></label>
<label><name>猫</name><color>#0000ff</color></label>
<label><name>paw</name><parent>猫</parent></label>
</labels>"""
BOX = (
    '<box label="Wagen" source="manual" occluded="0" '
    'xtl="12.00" ytl="6.00" xbr="14.00" ybr="9.00" z_order="0"></box>'
)


def image(name, *shapes, more=""):
    size = 'width="20" height="10"'
    return f'<image id="0" name="{name}" {more} {size}>{"".join(shapes)}</image>'


def xml(*images, meta="task"):
    """Returns the text of annotations.xml."""
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
    return (
        f"{head}<meta><{meta}>{LABELS}</{meta}></meta>{''.join(images)}</annotations>"
    )


def test_shapes_become_objects(tmp_path, caplog):
    shapes = [
        '<polygon label="猫" points="0,0;10.0,0;10.0,10.0;0,10"/>',
        BOX,
        '<box label="Wagen" xtl="2" ytl="3" xbr="8" ybr="5" rotation="90.00"/>',
        '<ellipse label="猫" cx="15" cy="5" rx="3" ry="3"/>',
        '<mask label="猫" rle="0, 1, 1, 4" left="1" top="2" width="3" height="2"/>',
        '<polyline label="猫" points="0,0;5,5"/>',
        '<polygon label="猫" points="0,0;5,5"/>',
        '<tag label="Wagen"></tag>',
    ]
    text = xml(image("a.jpg", *shapes), image("b.jpg", BOX), image("c.jpg"))
    content = {f"images/{name}.jpg": photograph() for name in "abcd"}
    path = write(tmp_path / "task", {**content, "annotations.xml": text}, zipped=True)
    info, found = build(tmp_path, "cvat", path, validation=0.5)
    assert [(c.id, c.name, c.color) for c in info.classes] == [
        (1, "Wagen", (255, 128, 0)),
        (2, "猫", (0, 0, 255)),
    ]
    everything = {**found["train"], **found["validation"]}
    assert boxes(everything["a"]) == [
        (1, (0, 0, 10, 10), 100),
        (0, (6, 12, 9, 14), 6),
        (0, (1, 4, 7, 6), 12),
        (1, (2, 12, 8, 18), 32),  # as pycocotools draws it
        (1, (2, 1, 4, 4), 5),
    ]
    assert everything["a"].file_name == "images/a.jpg"
    for note in (
        "2 annotations without a mask, left out (id 6 of image a, id 7 of image a)",
        "1 polygons of fewer than three corners, left out of their objects",
        "1 photographs without a segment, left out (c)",
        "task.zip without annotation, left out (images/d.jpg)",
    ):
        assert note in caplog.text


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    shapes = [
        '<box label="Wagen" xtl="0" ytl="0" xbr="2" ybr="2" group_id="4"/>',
        '<mask label="Wagen" rle="0,2" left="8" top="8" width="2" height="1" group_id="4"/>',
        '<box label="猫" xtl="0" ytl="4" xbr="2" ybr="6" group_id="4"/>',
    ]
    content = {"annotations.xml": xml(image("a.jpg", *shapes), image("b.jpg", BOX))}
    content |= {"images/a.jpg": photograph(), "images/b.jpg": photograph()}
    path = write(tmp_path / "task", content)
    _, found = build(tmp_path, "cvat", path / "annotations.xml", validation=0.5)
    everything = {**found["train"], **found["validation"]}
    assert boxes(everything["a"]) == [(0, (0, 0, 9, 10), 6), (1, (4, 0, 6, 2), 4)]


def test_subsets_of_a_project_are_splits(tmp_path):
    names = [("a.jpg", "Train"), ("frame_000001", "Train"), ("a.jpg", "Validation")]
    text = xml(
        *(image(name, BOX, more=f'subset="{subset}"') for name, subset in names),
        meta="project",
    )
    content = {
        "annotations.xml": text,
        "images/Train/a.jpg": photograph(),
        "images/Train/frame_000001.PNG": photograph(),
        "images/Validation/a.jpg": photograph(orientation=3),
    }
    info, found = build(tmp_path, "cvat", write(tmp_path / "p", content, zipped=True))
    assert info.num_examples == {"train": 2, "validation": 1}
    assert set(found["train"]) == {"a", "frame_000001"}
    assert found["validation"]["a"].file_name == "images/Validation/a.jpg"


def test_photographs_elsewhere_under_windows_names(tmp_path):
    text = xml(image("day\\a.jpg", BOX), image("day\\b.jpg", BOX))
    path = write(tmp_path / "labels", {"job.xml": text}) / "job.xml"
    photographs = {"day/a.jpg": photograph(), "day/B.JPG": photograph()}
    images = write(tmp_path / "photos", photographs)
    info, _ = build(tmp_path, "cvat", path, images=images, validation=0.5)
    assert info.num_examples == {"train": 1, "validation": 1}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (xml('<track id="0" label="猫"/>'), 'has tracks.*"CVAT for images 1.1"'),
        (xml(), "holds no XML of CVAT with an image"),
        ("<annotation/>", "is no XML of CVAT: it begins with 'annotation'"),
        ("<annotations>", "annotations.xml in .* is no XML"),
        ('<!DOCTYPE x [<!ENTITY y "z">]><annotations/>', "declares entities"),
        (
            xml(image("a.jpg", "<star label='猫'/>")),
            "shape 1: it is 'star', not one of",
        ),
        (
            xml(image("a.jpg", '<polygon label="猫" points="0,0;1"/>')),
            "image a.jpg of .*: shape 1: points is '0,0;1', no numbers",
        ),
        (
            xml(
                image(
                    "a.jpg",
                    '<mask label="猫" rle="1,2" left="0" top="0" '
                    'width="2" height="2"/>',
                )
            ),
            "its rle has 3 pixels for 2 x 2, in a photograph of 20 x 10",
        ),
        (xml(image("a.jpg", "<box/>")), "shape 1: label is missing"),
        (xml(image("", BOX)), "name is ''"),
    ],
)
def test_xml_of_another_form_is_refused_by_name(tmp_path, text, match):
    path = write(
        tmp_path / "t", {"annotations.xml": text, "images/a.jpg": photograph()}
    )
    with pytest.raises(ValueError, match=match):
        build(tmp_path, "cvat", path)
