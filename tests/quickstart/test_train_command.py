"""eomt-train goes from drawn photographs and masks to scores and pictures."""

import json

import numpy as np
import pytest
from PIL import Image

import eomt_jax
from eomt_jax.cli import train
from eomt_jax.models import variants
from eomt_jax.training import guards, loop


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Returns a folder of ten photographs with masks of a square; makes networks tiny."""
    small = variants.Variant(16, 2, 2, 32, 1, layer_scale_init=1.0)
    monkeypatch.setitem(variants.VARIANTS, "tiny", small)
    rng = np.random.default_rng(0)
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    for i in range(10):
        top, left = rng.integers(0, 16, 2)
        mask = np.zeros((32, 32), np.uint8)
        mask[top : top + 16, left : left + 16] = 255
        pixels = rng.integers(0, 90, (32, 32, 3)) + mask[..., None] // 2
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"photos/{i}.jpg")
        Image.fromarray(mask).save(tmp_path / f"masks/{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # which has no weights
    return tmp_path


def test_train_prepares_trains_scores_draws_goes_on_and_refuses(
    folder, capsys, monkeypatch
):
    begin = loop.train
    command = ["photos", "masks", "--weights=none", "--image_size=32", "--steps=2"]

    def stop(config, workdir):
        monkeypatch.setattr(loop, "train", begin)
        raise guards.Interrupted(guards.RUN_AGAIN)

    monkeypatch.setattr(loop, "train", stop)
    with pytest.raises(SystemExit):
        train.main(command)
    assert "Give the same command again" in capsys.readouterr().out
    assert train.main(command) == 0
    said = capsys.readouterr().out
    run = folder / "runs/photos"
    for text in (
        "This goes on with the training in runs/photos.",
        " on 2 photographs held out",
        "eomt-predict NEW_PHOTOS --checkpoint=runs/photos --out=predictions",
        "eomt-train photos masks --out=runs/photos --weights=none --image_size=32 --steps=4",
    ):
        assert text in said
    for name in ("contact_sheet.png", "predictions.png"):
        with Image.open(run / name) as picture:
            assert picture.width > 300
    assert len(list(run.glob("evaluation_photographs_train_*_pictures/*.png"))) == 4
    saved = json.loads((run / "eomt_train.json").read_text())
    assert saved["choices"]["steps"] == 2 and saved["data"]["task"] == "semantic"

    others = eomt_jax.evaluate("runs/photos", ("photos", "masks"), num_pictures=0)
    assert others["num_images"] == 10
    assert [row["name"] for row in others["per_class"]] == ["background", "foreground"]

    capsys.readouterr()
    assert train.main([*command, "--seed=1"]) == 1
    assert train.main(["photos", "masks", "--out=."]) == 1
    error = capsys.readouterr().err
    assert "holds the training on other data or weights (seed was 0 and is 1)" in error
    assert "--out=. holds something else than a training" in error
