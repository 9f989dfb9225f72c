"""A dataset's description has values of the right types, or an error names a field."""

import json

import pytest

from eomt_jax.types import ClassInfo, DatasetInfo

INFO = DatasetInfo(
    name="two",
    classes=(
        ClassInfo(7, "cat", True, (255, 0, 0)),
        ClassInfo(9, "sky", False, (0, 0, 9)),
    ),
    max_image_size=(48, 64),
    max_segments=3,
    num_examples={"train": 5},
)
WRONG = {
    "name": [None, 3],
    "classes": [None, 3, {}, [3], [{"id": 1}], [[7, "cat", True, [0, 0, 0]]]],
    "max_image_size": [None, 64, [64], [64, -1], [64, 64.5]],
    "max_segments": [None, -1, 2.5, True, 10**30],
    "num_examples": [None, [], {"train": "5"}, {"train": -1}],
    "task": [None, "depth", []],
    "max_aspect_ratio": [None, "1", float("nan"), float("inf"), -1],
    "something_new": [1],
}


def test_info_is_read_as_it_was_written():
    assert DatasetInfo.from_json(INFO.to_json()) == INFO


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in WRONG.items() for v in values]
)
def test_info_with_a_field_of_another_type_names_it(field, value):
    text = json.dumps(json.loads(INFO.to_json()) | {field: value})
    with pytest.raises(ValueError, match=f"^{field} = .*; wanted"):
        DatasetInfo.from_json(text)


@pytest.mark.parametrize("field", ["name", "classes", "num_examples"])
def test_info_without_a_field_names_it(field):
    fields = json.loads(INFO.to_json())
    del fields[field]
    with pytest.raises(ValueError, match=f"^{field} = None; wanted a value"):
        DatasetInfo.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", True), ("name", 3), ("is_thing", "no"), ("color", [1, 2]), ("color", None)],
)
def test_class_with_a_field_of_another_type_is_shown(field, value):
    fields = json.loads(INFO.to_json())
    fields["classes"][1][field] = value
    with pytest.raises(ValueError, match="^classes = {.*; wanted rows of id, name"):
        DatasetInfo.from_json(json.dumps(fields))
