import json

import pytest

from configs import finetune
from eomt_jax.evaluation.run_config import take_from_run


def write(folder, **changes):
    """Writes a run's config.json, of a recipe with other values."""
    config = finetune.get_config()
    config.update_from_flattened_dict(changes)
    (folder / "config.json").write_text(config.to_json())


def test_evaluation_takes_what_the_run_was_trained_with(tmp_path):
    write(
        tmp_path,
        **{"image_size": 192, "model.dtype": "float32", "dataset.name": "bolts"},
        **{"dataset.eval_split": "test", "eval.num_images": 7, "batch_size": 2},
    )
    config = finetune.get_config()
    taken = take_from_run(config, tmp_path)
    assert taken == [
        "image_size = 192",
        "model.dtype = 'float32'",
        "dataset.name = 'bolts'",
        "dataset.eval_split = 'test'",
    ]
    assert (config.image_size, config.model.dtype) == (192, "float32")
    assert (config.dataset.name, config.dataset.eval_split) == ("bolts", "test")
    assert (config.eval.num_images, config.batch_size) == (0, 8)


def test_field_that_a_flag_sets_stays(tmp_path):
    write(tmp_path, **{"image_size": 192, "dataset.name": "bolts"})
    config = finetune.get_config()
    config.dataset.name = "nuts"
    assert take_from_run(config, tmp_path, given={"dataset.name"}) == [
        "image_size = 192"
    ]
    assert config.dataset.name == "nuts"


def test_folder_without_a_config_changes_nothing(tmp_path):
    config = finetune.get_config()
    assert take_from_run(config, tmp_path) == []
    assert config == finetune.get_config()
    with pytest.raises(ValueError, match="there is no folder .*elsewhere"):
        take_from_run(config, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "config.json cannot be read"),
        (json.dumps({"image_size": "wide"}), "config.json: image_size = 'wide'"),
        (json.dumps({"model": {"dtype": ["a"]}}), "config.json: model.dtype = "),
    ],
)
def test_config_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        take_from_run(finetune.get_config(), tmp_path)
