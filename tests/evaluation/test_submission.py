import json

import jax
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_codec

from eomt_jax.evaluation import submission
from eomt_jax.evaluation.submission import Submission
from eomt_jax.postprocess.instance import InstancePrediction
from eomt_jax.postprocess.panoptic import PanopticPrediction
from eomt_jax.postprocess.semantic import SemanticPrediction
from eomt_jax.types import Batch, ClassInfo, DatasetInfo, Targets

IDS = (1, 7, 90)


class Source(list):
    """A split of two photographs, with the attributes that writing needs."""

    split = "validation"

    def __init__(self, ids=IDS):
        super().__init__(["000000000139", "street"])
        self.info = DatasetInfo(
            name="fake",
            classes=tuple(ClassInfo(i, f"class {i}", True, (0, 0, 0)) for i in ids),
            max_image_size=(6, 9),
            max_segments=2,
            num_examples={},
        )

    def image_id(self, index):
        return self[index]


def make_batch(*, index=(1, 0, -1), sizes=((4, 5), (6, 9), (6, 9))):
    """Returns a batch, by default of two photographs and a row that fills up."""
    rows = len(index)
    padded = np.zeros((rows, 2), bool)
    return Batch(
        image=np.zeros((rows, 8, 8, 3), np.uint8),
        targets=Targets(
            labels=np.zeros((rows, 2), np.int32), valid=padded, is_crowd=padded
        ),
        valid=np.array(index) >= 0,
        example_index=np.array(index, np.int32),
        content_size=np.full((rows, 2), 8, np.int32),
        original_size=np.array(sizes, np.int32),
    )


def panoptic_prediction(rows=3):
    """Returns query 300 on the left half, and query 1 in the top right corner."""
    id_map = np.zeros((rows, 6, 9), np.int32)
    id_map[:, :, :3], id_map[:, 0, 4:] = 301, 2
    labels = np.zeros((rows, 301), np.int32)
    labels[:, 300], labels[:, 1] = 2, 1
    valid = np.zeros((rows, 301), bool)
    valid[:, [1, 300]] = True
    scores = valid.astype(np.float32)
    return PanopticPrediction(id_map=id_map, labels=labels, scores=scores, valid=valid)


def read_png(path):
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


def test_panoptic_files(tmp_path):
    with Submission(tmp_path / "out", Source(), task="panoptic") as write:
        write(make_batch(), panoptic_prediction())
    rows = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    segments = [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 90}]
    assert rows == [
        {"image_id": "street", "file_name": "street.png", "segments_info": segments},
        {
            "image_id": 139,
            "file_name": "000000000139.png",
            "segments_info": segments,
        },
    ]
    mode, street = read_png(tmp_path / "out" / "panoptic" / "street.png")
    assert mode == "RGB" and street.shape == (4, 5, 3)
    np.testing.assert_array_equal(
        street[..., 0], [[2, 2, 2, 0, 1]] + 3 * [[2, 2, 2, 0, 0]]
    )
    assert not street[..., 1:].any()
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert files == [
        "out",
        "out/panoptic",
        "out/panoptic.json",
        "out/panoptic/000000000139.png",
        "out/panoptic/street.png",
    ]


def test_panoptic_ids_past_a_byte(tmp_path):
    id_map = 1 + np.arange(300, dtype=np.int32).reshape(1, 10, 30)
    prediction = PanopticPrediction(
        id_map=id_map,
        labels=np.zeros((1, 300), np.int32),
        scores=np.ones((1, 300), np.float32),
        valid=np.ones((1, 300), bool),
    )
    with Submission(tmp_path / "out", Source(), task="panoptic") as write:
        write(make_batch(index=(1,), sizes=((10, 30),)), prediction)
    _, rgb = read_png(tmp_path / "out" / "panoptic" / "street.png")
    np.testing.assert_array_equal(rgb.astype(int) @ [1, 256, 65536], id_map[0])


def test_instance_files_best_first_without_empty_masks(tmp_path):
    masks = np.zeros((1, 3, 6, 9), bool)
    masks[0, 1, :2, :4], masks[0, 2, 3] = True, True
    prediction = InstancePrediction(
        mask_bits=np.packbits(masks, axis=-1, bitorder="little"),
        labels=np.array([[0, 2, 1]], np.int32),
        scores=np.array([[0.0, 0.25, 0.75]], np.float32),
    )
    with Submission(tmp_path / "out", Source(), task="instance") as write:
        write(make_batch(index=(0,), sizes=((5, 7),)), prediction)
    rows = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [(r["image_id"], r["category_id"], r["score"]) for r in rows] == [
        (139, 7, 0.75),
        (139, 90, 0.25),
    ]
    for row, n in zip(rows, (2, 1)):
        np.testing.assert_array_equal(
            mask_codec.decode(row["segmentation"]), masks[0, n, :5, :7]
        )


@pytest.mark.parametrize(("ids", "mode"), [((1, 7, 255), "L"), ((1, 7, 3055), "I;16")])
def test_semantic_files_hold_the_datasets_own_ids(tmp_path, ids, mode):
    label_map = np.full((1, 6, 9), -1, np.int32)
    label_map[0, :4, :5] = np.arange(20).reshape(4, 5) % 3
    prediction = SemanticPrediction(label_map=label_map)
    with Submission(tmp_path / "out", Source(ids), task="semantic") as write:
        write(make_batch(index=(1,), sizes=((4, 5),)), prediction)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["street.png"]
    found_mode, found = read_png(tmp_path / "out" / "street.png")
    assert found_mode == mode
    np.testing.assert_array_equal(found, np.array(ids)[label_map[0, :4, :5]])


def test_nothing_looks_whole_before_the_end(tmp_path):
    out = tmp_path / "deep" / "out"
    with Submission(out, Source(), task="panoptic") as write:
        write(make_batch(), panoptic_prediction())
        assert not out.exists()
    assert out.exists()


def test_failure_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    with (
        pytest.raises(RuntimeError, match="device"),
        Submission(out, Source(), task="panoptic") as write,
    ):
        write(make_batch(), panoptic_prediction())
        raise RuntimeError("the device is gone")
    assert list(tmp_path.iterdir()) == []


def test_rest_of_a_killed_run_is_cleared_away(tmp_path):
    rest = tmp_path / ".out.unfinished" / "panoptic"
    rest.mkdir(parents=True)
    (rest / "old.png").write_bytes(b"half")
    with Submission(tmp_path / "out", Source(), task="panoptic") as write:
        write(make_batch(), panoptic_prediction())
    names = {path.name for path in (tmp_path / "out" / "panoptic").iterdir()}
    assert names == {"000000000139.png", "street.png"}
    assert not (tmp_path / ".out.unfinished").exists()


def test_folder_in_use_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something already"):
        Submission(tmp_path, Source(), task="panoptic")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with Submission(tmp_path / "out", Source(), task="instance"):
        pass
    assert json.loads((tmp_path / "out" / "instances.json").read_text()) == []


def test_ids_that_no_png_holds_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'class -1' of fake has the id -1"):
        Submission(tmp_path / "out", Source((-1, 7)), task="semantic")


def test_two_processes_write_one_submission(tmp_path, monkeypatch):
    current = 0
    monkeypatch.setattr(jax, "process_index", lambda: current)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(submission, "_wait_for_all", lambda name: None)
    writers = [
        Submission(tmp_path / "out", Source(), task="panoptic") for _ in range(2)
    ]
    for current, writer in enumerate(writers):
        writer.__enter__()
    for current, writer in enumerate(writers):
        size = ((4, 5), (6, 9))[current]
        writer(make_batch(index=(current,), sizes=(size,)), panoptic_prediction(1))
    for current in (1, 0):
        writers[current].__exit__(None, None, None)
    rows = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    assert [row["image_id"] for row in rows] == [139, "street"]
    assert not list((tmp_path / "out").glob("part_*"))
