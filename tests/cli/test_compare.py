import json

import numpy as np
import pytest
from PIL import Image

from eomt_jax.cli import compare


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Makes the folders a and b of runs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        record = json.dumps({"step": 1, "loss": 1.0, "eval/ap": 2.0})
        (tmp_path / name / "metrics.jsonl").write_text(record)
    return tmp_path


def test_runs_are_printed_and_drawn(runs, capsys):
    assert compare.main(["a/", "b", "--out=new/curves.png"]) == 0
    out = capsys.readouterr().out
    assert "results (after step)        a        b\n" in out
    assert out.endswith("Curves: new/curves.png\n")
    with Image.open(runs / "new/curves.png") as picture:
        assert np.asarray(picture).shape == (2 * 440 + 2 * 26 + 16, 960, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a"], "give 2 to 8 different runs"),
        (["a", "a/"], "give 2 to 8 different runs"),
        ([*"abcdefghi"], "give 2 to 8 different runs"),
        (["a", "c"], "there is no folder c"),
        (["a", "b", "--out=x.jpg"], "--out=x.jpg must end in .png"),
    ],
)
def test_runs_that_are_none_end_in_one_line(runs, arguments, message, capsys):
    assert compare.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"eomt-compare: {message}")
    assert error.count("\n") == 1
    assert not list(runs.glob("*.png"))
