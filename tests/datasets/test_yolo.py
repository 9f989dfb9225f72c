"""Labels of YOLO are read: https://docs.ultralytics.com/datasets/segment."""

import pytest

from tests.datasets.tool_exports import boxes, build, masks_of, photograph, write

# Corners of the left half and of the upper right quarter of a photograph.
LEFT = "0 0 0.5 0 0.5 1 0 1"
UPPER_RIGHT = "0.5 0 1 0 1 0.5 0.5 0.5"
YAML = "path: {path}\ntrain: {train}\nval: {val}\nnames:\n  0: Apfelbäume\n  1: 猫\n"


def dataset(**texts):
    """Returns the files of a dataset: two splits, a photograph for each text."""
    files = {"data.yaml": YAML.format(path=".", train="images/train", val="images/val")}
    for name, text in {"a": f"0 {LEFT}\n1 {UPPER_RIGHT}", "b": f"1 {LEFT}"}.items():
        split = {"a": "train", "b": "val"}[name]
        files[f"images/{split}/{name}.jpg"] = photograph()
        files[f"labels/{split}/{name}.txt"] = text
    for name, text in texts.items():
        files[f"images/train/{name}.jpg"] = photograph()
        if text is not None:
            files[f"labels/train/{name}.txt"] = text
    return files


@pytest.mark.parametrize("form", ["data.yaml", "folder", "archive"])
def test_splits_and_names_are_those_of_data_yaml(tmp_path, form):
    path = write(tmp_path / "export", dataset(), zipped=form == "archive")
    annotations = path / "data.yaml" if form == "data.yaml" else path
    info, found = build(tmp_path, "yolo", annotations)
    assert info.task == "instance"
    assert [(c.id, c.name) for c in info.classes] == [(0, "Apfelbäume"), (1, "猫")]
    assert info.num_examples == {"train": 1, "validation": 1}
    a, b = found["train"]["a"], found["validation"]["b"]
    assert boxes(a) == [(0, (0, 0, 10, 10), 100), (1, (0, 10, 5, 20), 50)]
    assert boxes(b) == [(1, (0, 0, 10, 10), 100)]
    assert a.file_name == "images/train/a.jpg"


def test_archive_of_roboflow_with_paths_of_other_folders(tmp_path, caplog):
    files = {
        "x/data.yaml": "train: ../train/images\nval: ..\\valid\\images\n"
        "test: ../test/images\nnc: 1\nnames: [no]\n",
        "x/README.roboflow.txt": "made by",
    }
    for split, name in (("train", "a"), ("train", "b"), ("valid", "a")):
        files[f"x/{split}/images/{name}.jpg"] = photograph()
    files["x/train/labels/a.txt"] = f"0 {LEFT}"
    files["x/valid/labels/a.txt"] = f"0 {UPPER_RIGHT}"
    info, found = build(tmp_path, "yolo", write(tmp_path / "e", files, zipped=True))
    assert info.num_examples == {"train": 1, "validation": 1}
    assert [c.name for c in info.classes] == ["no"]
    assert boxes(found["validation"]["a"])[0][1] == (0, 10, 5, 20)
    assert "1 folders of x/data.yaml without a photograph, left out" in caplog.text
    assert "1 photographs without a text, taken for those of no object" in caplog.text


def test_data_yaml_elsewhere_with_lists_of_photographs(tmp_path):
    files = dataset()
    files["train.txt"] = "./images/train/a.jpg\r\n"
    files["val.txt"] = "C:\\Users\\me\\export\\images\\val\\b.jpg\n\n"
    write(tmp_path / "export", files)
    text = YAML.format(path="../export", train="train.txt", val="[val.txt]")
    path = write(tmp_path / "own", {"my.yaml": text}) / "my.yaml"
    info, found = build(tmp_path, "yolo", path)
    assert info.num_examples == {"train": 1, "validation": 1}
    assert [list(split) for split in found.values()] == [["a"], ["b"]]


def test_labels_and_photographs_in_places_of_their_own(tmp_path):
    """Label Studio, makesense and labelImg write texts and classes.txt alone."""
    photographs = {f"day 1/{n}.jpg": photograph() for n in "abcdefghij"}
    labels = {f"{n}.txt": f"1 {LEFT}" for n in "abcdefghij"}
    info, found = build(
        tmp_path,
        "yolo",
        write(tmp_path / "texts", {**labels, "classes.txt": "one\ntwo\n"}),
        images=write(tmp_path / "photos", photographs),
        classes=tmp_path / "texts" / "classes.txt",
    )
    assert info.num_examples == {"train": 9, "validation": 1}
    assert [c.name for c in info.classes] == ["one", "two"]
    assert {label for r in found["train"].values() for label in r.labels} == {1}


def test_photograph_without_an_object_is_a_negative_on_request(tmp_path, caplog):
    files = dataset(empty="", missing=None)
    _, found = build(tmp_path, "yolo", write(tmp_path / "e", files), negatives=True)
    assert {k: len(r.labels) for k, r in found["train"].items()} == {
        "a": 2,
        "empty": 0,
        "missing": 0,
    }
    assert "2 train photographs without an object, kept as negatives" in caplog.text
    assert "without a text, taken for those of no object (images/train/missing.jpg" in (
        caplog.text
    )


def test_photograph_is_turned_as_its_exif_says(tmp_path):
    """Shares are those of the photograph as viewers show it."""
    files = dataset(c=f"0 {LEFT}")
    files["images/train/c.jpg"] = photograph(orientation=6)
    _, found = build(tmp_path, "yolo", write(tmp_path / "e", files))
    record = found["train"]["c"]
    assert (record.height, record.width) == (20, 10)
    assert boxes(record) == [(0, (0, 0, 20, 5), 100)]


def test_lines_that_are_no_outlines_are_left_out_and_named(tmp_path, caplog):
    box, point = "0 0.5 0.5 0.2 0.2", "0 0.1 0.1"
    lines = [f"1.0 {LEFT}", f"1 {LEFT}", f"1.0 {LEFT}", box, point]
    files = dataset(c="\ufeff" + "\n".join(lines))
    files["labels/train/z.txt"] = f"0 {LEFT}"
    _, found = build(tmp_path, "yolo", write(tmp_path / "e", files))
    assert boxes(found["train"]["c"]) == [(1, (0, 0, 10, 10), 100)] * 2
    for note in (
        "1 lines that come twice, taken once (labels/train/c.txt:3)",
        "2 annotations without a mask, left out (id 3 of image c, id 4 of image c)",
        "1 polygons of fewer than three corners, left out of their objects",
        "1 files of labels without a photograph, left out (labels/train/z.txt)",
    ):
        assert note in caplog.text


def test_outline_beyond_the_border_is_cut_off(tmp_path, caplog):
    files = dataset(c="0 -0.1 0 0.5 0 0.5 1.2 -0.1 1.2")
    _, found = build(tmp_path, "yolo", write(tmp_path / "e", files))
    assert boxes(found["train"]["c"]) == [(0, (0, 0, 10, 10), 100)]
    assert "objects that reach outside of their photograph, cut off there" in (
        caplog.text
    )


def test_parts_of_an_object_that_one_polygon_joins_stay_apart(tmp_path):
    """Ultralytics' converter goes to the second part, around it and back."""
    line = "0 0 0 0.2 0 0.2 0.5 0.6 0.5 0.8 0.5 0.8 1 0.6 1 0.6 0.5 0.2 0.5 0 0.5"
    _, found = build(tmp_path, "yolo", write(tmp_path / "e", dataset(c=line)))
    (mask,) = masks_of(found["train"]["c"])
    assert mask.sum() == 40
    assert mask[:5, :4].all()
    assert mask[5:, 12:16].all()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f"2 {LEFT}", r"c.txt in .*, line 1: there is no class 2; .*1 \(猫\)"),
        (
            f"0 {LEFT}\n0 {LEFT} 0.9",
            "line 2: 9 numbers follow .*a confidence at the end",
        ),
        ("0 0 0 10 0 10 10", "a coordinate is 10; it has to be a share"),
        ("0 0 0 nan 0 1 1", "a coordinate is nan"),
        ("cat 0 0 1 0 1 1", "'cat 0 0 1 0 1 1' is no number of a class"),
    ],
)
def test_text_of_another_format_is_refused_by_line(tmp_path, text, match):
    path = write(tmp_path / "e", dataset(c=text))
    with pytest.raises(ValueError, match=match):
        build(tmp_path, "yolo", path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("names: [x", "data.yaml in .* is no YAML"),
        ("train: images/train", "no data.yaml with the names of the classes"),
        ("names: {0: [x]}\ntrain: images/train", "not 0: name, 1: name"),
        ("names: [x, y]", "data.yaml names no photographs: it lacks train"),
        ("names: [x, y]\ntrain: photos", "train is 'photos', and .* no such folder"),
    ],
)
def test_data_yaml_that_says_too_little_is_refused(tmp_path, text, match):
    path = write(tmp_path / "e", {**dataset(), "data.yaml": text})
    with pytest.raises(ValueError, match=match):
        build(tmp_path, "yolo", path)


def test_photographs_of_which_none_has_a_text_are_refused(tmp_path):
    files = {n: c for n, c in dataset().items() if not n.startswith("labels")}
    with pytest.raises(ValueError, match="no photograph has a text in .*labels/1.txt"):
        build(tmp_path, "yolo", write(tmp_path / "e", files))
