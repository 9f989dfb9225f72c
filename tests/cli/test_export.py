import json

import jax
import numpy as np
import pytest

from eomt_jax.cli import export
from eomt_jax.dataset_info import published_info
from eomt_jax.weights.load import open_network
from eomt_jax.weights.native import model_folder
from tests.weights.foreign.test_huggingface import small_eomt


@pytest.fixture
def checkpoint(tmp_path):
    model, params = small_eomt()
    path = tmp_path / "model.safetensors"
    info = published_info("coco_instance")
    model_folder.save_file(path, model, params, dataset_info=info)
    return path


def test_exported_folder_holds_program_weights_and_classes(
    checkpoint, tmp_path, capsys
):
    out = tmp_path / "out"
    assert export.main([str(checkpoint), str(out), "--dtype=bfloat16"]) == 0
    text = capsys.readouterr().out
    assert "any number of images of 32 x 32 pixels a call, bfloat16" in text
    value = json.loads((out / "export.json").read_text())
    assert value["platforms"] == ["cpu", "cuda", "tpu"]
    assert value["dataset"]["classes"][0]["name"] == "person"
    written, read = open_network(out / "weights.safetensors"), open_network(checkpoint)
    jax.tree.map(np.testing.assert_array_equal, written.params, read.params)


def test_size_platform_and_classes_are_as_asked_for(checkpoint, tmp_path, capsys):
    out = tmp_path / "out\udcff"  # a name that is no UTF-8
    arguments = [str(checkpoint), str(out), "--batch=2"]
    names = [f"other {i}" for i in range(published_info("coco_instance").num_classes)]
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps([{"id": i, "name": n} for i, n in enumerate(names)]))
    arguments += ["--platforms=tpu, cpu", f"--dataset={classes}"]
    assert export.main(arguments) == 0
    assert "out\\udcff: 2 images" in capsys.readouterr().out
    value = json.loads((out / "export.json").read_text())
    assert value["inputs"]["images"]["shape"] == [2, 32, 32, 3]
    assert value["platforms"] == ["tpu", "cpu"]
    assert [row["name"] for row in value["dataset"]["classes"]] == names


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--platforms=gpu"], "platforms gpu: there are cpu"),
        (["--num_heads=5"], "num_heads"),
        (["--backbone=x"], "backbone"),
    ],
)
def test_what_cannot_be_exported_ends_in_one_line(
    flags, message, checkpoint, tmp_path, capsys
):
    assert export.main([str(checkpoint), str(tmp_path / "out"), *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("eomt-export: ")
    assert error.count("\n") == 1
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_nothing_is_written_over(checkpoint, tmp_path, capsys):
    assert export.main([str(checkpoint), str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("batch", ["0", "-1", "two"])
def test_batch_that_is_no_number_is_refused(batch, capsys):
    with pytest.raises(SystemExit):
        export.main(["in", "out", f"--batch={batch}"])
    assert "nor 'any'" in capsys.readouterr().err
