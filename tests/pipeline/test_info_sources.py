import dataclasses
import json

import pytest

from eomt_jax.dataset_info import published_info
from eomt_jax.pipeline import records
from eomt_jax.pipeline.info_sources import open_info, unknown_info

ROWS = [{"id": 3, "name": "cat", "isthing": 1}, {"id": 7, "name": "sky", "isthing": 0}]


def test_open_info_published_name():
    assert open_info("coco_panoptic") == published_info("coco_panoptic")
    info = published_info("ade20k_semantic")
    assert open_info(info) is info


@pytest.mark.parametrize(
    ("chosen", "task"), [([0], "instance"), ([0, 1], "panoptic"), ([1], "semantic")]
)
@pytest.mark.parametrize("wrap", [list, lambda rows: {"categories": rows, "info": {}}])
def test_open_info_list_of_classes(tmp_path, wrap, chosen, task):
    rows = [ROWS[i] for i in chosen]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(wrap(rows)))
    info = open_info(path)
    assert (info.name, info.task) == ("mine", task)
    assert [(c.id, c.name, c.is_thing) for c in info.classes] == [
        (row["id"], row["name"], bool(row["isthing"])) for row in rows
    ]


def test_open_info_whole_dataset_info(tmp_path):
    info = dataclasses.replace(published_info("coco_instance"), max_segments=5)
    path = tmp_path / "info.json"
    path.write_text(info.to_json())
    assert open_info(str(path)) == info


def test_open_info_prepared_dataset_newest_version(tmp_path):
    for version in ("1.0.0", "1.2.0"):
        folder = tmp_path / "mine" / version
        folder.mkdir(parents=True)
        info = dataclasses.replace(unknown_info(2), name=version)
        metadata = {records.METADATA_KEY: json.loads(info.to_json())}
        (folder / "metadata.json").write_text(json.dumps(metadata))
        (folder / "dataset_info.json").write_text("{}")
    assert open_info(tmp_path / "mine").name == "1.2.0"
    assert open_info(tmp_path / "mine" / "1.0.0").name == "1.0.0"
    with pytest.raises(ValueError, match=r"data_dir"):
        open_info(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("{}", "holds no classes"),
        ('{"classes": []}', "no.* whole DatasetInfo|isn't a whole"),
        ('[{"name": "cat"}]', "class 1 lacks an id"),
        ('[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', "two classes with the id"),
    ],
)
def test_open_info_damaged_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.json.*({message})"):
        open_info(path)


def test_open_info_unknown_name_lists_the_published():
    with pytest.raises(ValueError, match="coco_panopti .*coco_panoptic"):
        open_info("coco_panopti")


def test_unknown_info_has_a_name_and_a_colour_each():
    info = unknown_info(3)
    assert [c.name for c in info.classes] == ["class_0", "class_1", "class_2"]
    assert len({c.color for c in info.classes}) == 3
    assert info.is_thing.all()
