import io

import numpy as np
import pytest
from PIL import Image

from eomt_jax.evaluation import pictures
from eomt_jax.postprocess.semantic import SemanticPrediction


@pytest.fixture
def source(photographs, monkeypatch):
    """Returns photographs that can be opened; the first one's name has a folder."""
    photograph = io.BytesIO()
    Image.new("RGB", (4, 6), (90, 120, 30)).save(photograph, format="PNG")
    monkeypatch.setattr(photographs, "image_bytes", photograph.getvalue())
    monkeypatch.setattr(photographs, "image_id", lambda _, index: f"city/{index}")
    return photographs("semantic")


def draw_all(folder, source, num_pictures):
    write = pictures.PictureWriter(
        folder, source, task="semantic", num_pictures=num_pictures
    )
    for batch in source.batches(10):
        label_map = np.zeros((8, 6, 8), np.int32)
        write(batch, SemanticPrediction(label_map))
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_picture_writer_draws_the_first_images_of_several_batches(tmp_path, source):
    names = [f"city/{index}.png" for index in range(9)]
    assert draw_all(tmp_path / "new", source, 9) == names
    with Image.open(tmp_path / "new" / "city" / "8.png") as picture:
        assert picture.width > 3 * 100


def test_picture_writer_leaves_out_rows_that_fill_up_the_batch(tmp_path, source):
    assert len(draw_all(tmp_path, source, 100)) == 10


def test_picture_writer_of_other_processes_draws_nothing(tmp_path, source, monkeypatch):
    monkeypatch.setattr(pictures, "is_main", lambda: False)
    assert draw_all(tmp_path / "new", source, 9) == []


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (3, [0, 4, 8]), (99, list(range(12)))]
)
def test_spread_source_takes_examples_from_the_whole_split(source, count, expected):
    spread = pictures.SpreadSource(source, count)
    assert len(source) == 12
    assert (spread.info, spread.split) == (source.info, source.split)
    ids = [spread.image_id(i) for i in range(len(spread))]
    assert ids == [f"city/{index}" for index in expected]
    assert [spread[i].image_id for i in range(len(spread))] == [
        source[index].image_id for index in expected
    ]
