import json

import pytest

from eomt_jax import dataset_info
from eomt_jax.weights.classes import find_dataset_info, published_name

COCO = [c.name for c in dataset_info.load_classes("coco_panoptic")]
ADE = [c.name for c in dataset_info.load_classes("ade20k_semantic")]


def id2label(names):
    return {"id2label": {str(i): name for i, name in enumerate(names)}}


def find(num_classes, config, *, path="a", processor=None):
    return find_dataset_info(
        path, num_classes, config=config, processor=processor or {}
    )


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("tue-mps/coco_panoptic_eomt_large_640_dinov3", ("coco_panoptic", 640)),
        ("tue-mps/coco_instance_eomt_large_1280@main", ("coco_instance", 1280)),
        (
            "/x/ade20k_semantic_eomt_large_512/pytorch_model.bin",
            ("ade20k_semantic", 512),
        ),
        ("coco_panoptic_eomt_small_640_2x", ("coco_panoptic", 640)),
        ("my_data_eomt_large_640", ("", None)),
        ("coco_panoptic", ("", None)),
    ],
)
def test_published_names_tell_dataset_and_size(path, wanted):
    assert published_name(path) == wanted


def test_names_of_a_published_dataset_are_recognised():
    info, notes = find(133, id2label(COCO))
    assert info == dataset_info.published_info("coco_panoptic")
    assert notes == []


@pytest.mark.parametrize(
    ("windows", "name"), [(True, "ade20k_semantic"), (False, "ade20k_panoptic")]
)
def test_windows_of_the_processor_tell_semantic(windows, name):
    processor = {"do_split_image": windows}
    info, _ = find(150, id2label(ADE), processor=processor)
    assert info.name == name


def test_own_names_are_things_unless_semantic():
    info, (note,) = find(2, id2label(["rail", "tie"]))
    assert [(c.name, c.is_thing) for c in info.classes] == [
        ("rail", True),
        ("tie", True),
    ]
    assert "which of its classes are stuff" in note
    processor = {"do_split_image": True}
    info, notes = find(2, id2label(["rail", "tie"]), processor=processor)
    assert (info.task, list(info.is_thing), notes) == ("semantic", [False, False], [])


def test_published_name_stands_in_for_placeholders_if_the_number_agrees():
    path = "tue-mps/coco_instance_eomt_large_640"
    info, (note,) = find(80, id2label([f"LABEL_{i}" for i in range(80)]), path=path)
    assert info == dataset_info.published_info("coco_instance")
    assert "coco_instance's, by its name" in note
    info, (note,) = find(3, {}, path=path)
    assert info is None
    assert "3 classes" in note


def test_own_export_keeps_everything():
    wanted = dataset_info.published_info("cityscapes_semantic")
    config = {"eomt_jax": json.loads(wanted.to_json())}
    assert find(19, config) == (wanted, [])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (id2label(["a", "b"]), "names 2 classes, the class head has 3"),
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "wanted a name for each"),
        ({"id2label": ["a", "b", "c"]}, "wanted a name for each"),
        ({"eomt_jax": {"name": "x"}}, "eomt_jax in config.json cannot be read"),
        ({"eomt_jax": 3}, "eomt_jax in config.json cannot be read"),
    ],
)
def test_config_that_contradicts_the_head_is_refused(config, message):
    with pytest.raises(ValueError, match=f"^a: .*{message}"):
        find(3, config)
