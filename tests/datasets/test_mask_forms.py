"""Masks with colours, remapped values, grey saved as RGB or other names are read."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from eomt_jax.datasets.class_lists import read_class_list
from tests.datasets import map_archives
from tests.datasets.map_archives import (
    encode,
    write_files,
)
from tests.datasets.mask_folders import build, draw, label_map, read_all

COLORS = {0: (0, 0, 0), 1: (128, 64, 128), 2: (0, 0, 142)}
CAMVID = "name,r,g,b\nvoid, 0,0,0\nroad,128,64,128\ncar,0,0,142\n"
CVAT = "# label:color_rgb:parts:actions\nvoid:0,0,0::\nroad:128,64,128::\ncar:0,0,142::"
JSON = json.dumps(
    [{"id": i, "name": "abc"[i], "color": list(c)} for i, c in COLORS.items()]
)


def paint(values):
    """Returns the RGB of values 0 to 2."""
    return np.array([COLORS[i] for i in range(3)], np.uint8)[values]


SEMICOLONS = CAMVID.replace(",", ";").replace("name", '"Name"')


@pytest.mark.parametrize(
    ("class_list", "mode"),
    [
        *[(CAMVID, mode) for mode in ("RGB", "RGBA", "P")],
        *[(class_list, "RGB") for class_list in (SEMICOLONS, CVAT, JSON)],
    ],
)
def test_colored_masks_with_a_table_of_colors(tmp_path, class_list, mode):
    """The numbers of an adaptive palette are ignored if its colours are classes'."""
    photographs, masks = draw(2)
    values = np.random.default_rng(0).integers(0, 3, (24, 32))
    image = Image.fromarray(paint(values))
    image = image.quantize(3) if mode == "P" else image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    masks["0.png"] = stream.getvalue()
    masks["1.png"] = encode(paint(np.zeros((24, 32), int)))
    info = build(tmp_path, photographs, masks, class_list=class_list)
    assert [c.color for c in info.classes] == list(COLORS.values())
    found = read_all(tmp_path)
    np.testing.assert_array_equal(label_map(found["0"]), values)
    np.testing.assert_array_equal(label_map(found["1"]), 0)


def test_class_list_of_roboflow_has_numbers(tmp_path):
    path = tmp_path / "_classes.csv"
    path.write_text("Pixel Value, Class\n0, background\n3, car\n")
    found = read_class_list(path)
    assert [(c.id, c.name) for c in found.classes] == [(0, "background"), (3, "car")]
    assert found.colors == {}


def test_colors_of_no_class_are_named_or_remapped(tmp_path, caplog):
    photographs, masks = draw(2)
    values = np.random.default_rng(0).integers(0, 3, (24, 32))
    colors = paint(values)
    colors[0], colors[1] = (1, 2, 3), (255, 255, 255)
    masks = dict.fromkeys(masks, encode(colors))
    with pytest.raises(ValueError, match="0.png has colours .*: #010203, #ffffff; add"):
        build(tmp_path, photographs, masks, class_list=CAMVID)
    remap = "#010203=2,#000000=ignore,others=1"
    build(tmp_path, photographs, masks, class_list=CAMVID, remap=remap)
    expected = np.where(values == 0, -1, values)
    expected[0], expected[1] = 2, 1
    assert "1 values or colours that --remap=others" in caplog.text
    assert "(#ffffff in 2 masks)" in caplog.text
    np.testing.assert_array_equal(label_map(read_all(tmp_path)["0"]), expected)


def test_colors_of_pictures_alone_leave_numbers_alone(tmp_path):
    """There is a VOC palette, or grey, and a list whose colours are for drawing."""
    photographs, masks = draw(2)
    values = np.random.default_rng(0).integers(0, 3, (24, 32)).astype(np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    masks = {"0.png": stream.getvalue(), "1.png": encode(values)}
    build(tmp_path, photographs, masks, class_list=JSON)
    for record in read_all(tmp_path).values():
        np.testing.assert_array_equal(label_map(record), values)


def test_black_and_white_with_a_table_of_colors_are_not_numbers(tmp_path, caplog):
    photographs, masks = draw(2)
    values = np.random.default_rng(0).integers(0, 2, (24, 32)).astype(np.uint8)
    masks = dict.fromkeys(masks, encode(values * 255))
    class_list = "name,r,g,b\nno,0,0,0\nyes,255,255,255\n"
    build(tmp_path, photographs, masks, class_list=class_list)
    np.testing.assert_array_equal(label_map(read_all(tmp_path)["0"]), values)
    assert "2 masks read by the class list's colours, not numbers (0.png" in caplog.text


def test_grey_saved_as_rgb_has_numbers(tmp_path, caplog):
    photographs, masks = draw(2)
    values = map_archives.decode(masks["0.png"])
    masks["0.png"] = encode(np.repeat(values[..., None], 3, axis=-1))
    build(tmp_path, photographs, masks)
    expected = np.where(values == 255, -1, values.astype(int))
    np.testing.assert_array_equal(label_map(read_all(tmp_path)["0"]), expected)
    assert "1 masks of grey that was saved as RGB (0.png)" in caplog.text


@pytest.mark.parametrize(
    ("others", "label", "called"), [("ignore", -1, "no class"), ("2", 2, "car")]
)
def test_remap_of_all_others_lists_them(tmp_path, caplog, others, label, called):
    photographs, masks = draw(2)
    values = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 8
    masks["0.png"] = encode(values)
    build(tmp_path, photographs, masks, remap=f"3=1,others={others}")
    by_value = np.array([0, 1, 2, 1, *[label] * 4])
    np.testing.assert_array_equal(label_map(read_all(tmp_path)["0"]), by_value[values])
    assert (
        f"4 values or colours that --remap=others took for {called} (4 in 1 masks, 5 in "
        "1 masks, 6 in 1 masks"
    ) in caplog.text


def test_masks_called_after_their_photographs_are_found(tmp_path, caplog):
    photographs, masks = draw(3)
    photographs = {f"IMG {k}": v for k, v in photographs.items()}
    masks = {f"img {k[:-4]}_mask.png": v for k, v in masks.items()}
    build(tmp_path, photographs, masks)
    assert sorted(read_all(tmp_path)) == ["IMG 0", "IMG 1", "IMG 2"]
    assert (
        "3 masks found under other names than their photographs' (img 0_mask for"
        in (caplog.text)
    )


def test_masks_by_a_pattern_in_the_photographs_folder(tmp_path):
    photographs, masks = draw(3)
    files = {
        f"{k[:-4]}.png": encode(map_archives.decode(v)) for k, v in photographs.items()
    }
    for name, content in masks.items():
        files[f"{name[:-4]}_gt.png"] = content
    folder = str(write_files(tmp_path / "all", files))
    build(tmp_path, {}, {}, images=folder, masks=folder, mask_name="{}_gt.png")
    found = read_all(tmp_path)
    assert sorted(found) == ["0", "1", "2"]
    for name, record in found.items():
        assert record.image_bytes == files[f"{name}.png"]


def test_masks_of_cityscapes_names_by_a_pattern(tmp_path, caplog):
    photographs, masks = draw(2)
    photographs = {f"a_{k[:-4]}_leftImg8bit.jpg": v for k, v in photographs.items()}
    kinds = {"labelIds": masks, "color": dict.fromkeys(masks, b"")}
    masks = {
        f"a_{k[:-4]}_gtFine_{kind}.png": v
        for kind, m in kinds.items()
        for k, v in m.items()
    }
    build(tmp_path, photographs, masks, mask_name="{}_gtFine_labelIds.png")
    assert sorted(read_all(tmp_path)) == ["a_0_leftImg8bit", "a_1_leftImg8bit"]
    assert "2 files of" in caplog.text
    assert "are no mask called {}_gtFine_labelIds.png, left out" in caplog.text


def test_photographs_of_a_folder_with_masks_beside_them(tmp_path):
    photographs, masks = draw(2)
    folder = str(write_files(tmp_path / "all", {**photographs, **masks}))
    build(tmp_path, {}, {}, images=folder, masks=folder)
    assert read_all(tmp_path)["0"].image_bytes == photographs["0.jpg"]


def test_remap_moves_values_to_classes_and_to_none(tmp_path):
    photographs, masks = draw(2)
    values = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 6
    masks["0.png"] = encode(values)
    info = build(tmp_path, photographs, masks, remap="3=1, 4=2,5=ignore,0=ignore,1=0")

    assert info.num_classes == 3
    by_value = np.array([-1, 0, 2, 1, 2, -1])  # 3 means what 1 did before it moved
    np.testing.assert_array_equal(label_map(read_all(tmp_path)["0"]), by_value[values])


def test_foreground_of_255_is_a_class_once_remapped(tmp_path, caplog):
    photographs, masks = draw(2)
    values = np.zeros((24, 32), np.uint8)
    values[3:9] = 255
    masks = dict.fromkeys(masks, encode(values))
    build(tmp_path, photographs, masks, class_list="no\nred\n", remap="255=1")
    np.testing.assert_array_equal(label_map(read_all(tmp_path)["0"]), values // 255)
    assert "255" not in caplog.text
