"""Weights & Biases, offline: what its files hold is read back."""

import json
import struct

import numpy as np
import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.training.reporting import trackers, wandb_tracker
from eomt_jax.training.reporting.metrics_writer import MetricsWriter

_BLOCK = 32 * 1024
CONFIG = {"batch_size": 2, "model": {"variant": "tiny"}, "scale": (0.5, 2.0)}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()  # Settings are read once.
    yield
    wandb.teardown()


def open_writer(workdir, *, step=0, config=CONFIG):
    shown = trackers.RunToShow("shapes", "mine", config, workdir)
    tracking = trackers.create("wandb", shown)
    return MetricsWriter(workdir, step=step, tracking=tracking)


def read_runs(workdir):
    """Yields the records of each file that a start of the run wrote, oldest first."""
    wandb.teardown()  # The service has written everything when it has ended.
    for path in sorted((workdir / "wandb").glob("offline-run-*/*.wandb")):
        data, at, record, records = path.read_bytes(), 7, b"", []
        # The format is LevelDB's log: blocks of pieces, each after its checksum, length
        # and whether it is whole (1), or the last piece (4) of a record.
        while at + 7 <= len(data):
            if _BLOCK - at % _BLOCK < 7:
                at += _BLOCK - at % _BLOCK
            length, kind = struct.unpack_from("<4xHB", data, at)
            record += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                records.append(wandb_internal_pb2.Record.FromString(record))
                record = b""
        yield records


def history(records):
    """Returns each logged record without what W&B adds."""
    rows = []
    for record in records:
        if record.HasField("history"):
            items = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append({k: v for k, v in items.items() if not k.startswith("_")})
    return rows


def config(records):
    values = {}
    for record in records:
        for part in (record.run.config, record.config):
            for item in part.update:
                values[item.key] = json.loads(item.value_json)
    return values


def test_run_arrives_with_config_scores_and_pictures(tmp_path):
    picture = np.zeros((8, 12, 3), np.uint8)
    with open_writer(tmp_path) as writer:
        writer.scalars(3, {"loss": 1.5, "eval/ap": 12.5})
        writer.flush()
        writer.image(3, "predictions", picture)
        writer.best(3, (3, Score("AP", 12.5)))
    (records,) = read_runs(tmp_path)
    (run,) = [record.run for record in records if record.HasField("run")][:1]
    assert (run.project, run.display_name) == ("shapes", "mine")
    assert (
        config(records).items()
        >= {
            "batch_size": 2,
            "model": {"variant": "tiny"},
            "scale": [0.5, 2.0],
        }.items()
    )
    scalars, image, best = history(records)
    assert scalars == {"loss": 1.5, "eval/ap": 12.5, "step": 3}
    assert best == {"best/AP": 12.5, "best/step": 3.0, "step": 3}
    assert image["step"] == 3
    assert (image["predictions.height"], image["predictions.width"]) == (8, 12)
    folder = next((tmp_path / "wandb").glob("offline-run-*"))
    assert (folder / "files" / image["predictions.path"]).exists()


def test_resumed_run_has_the_same_id_and_the_new_config(tmp_path):
    with open_writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
    with open_writer(tmp_path, step=1, config={"batch_size": 4}) as writer:
        writer.scalars(1, {"eval/ap": 5.0})
        writer.scalars(2, {"loss": 2.0})
    ids = {
        path.stem.removeprefix("run-")
        for path in tmp_path.glob("wandb/offline-run-*/*.wandb")
    }
    known = json.loads((tmp_path / "tracker.json").read_text())
    assert ids == {known["wandb/shapes"]}
    _, records = read_runs(tmp_path)
    assert history(records) == [{"eval/ap": 5.0, "step": 1}, {"loss": 2.0, "step": 2}]
    assert config(records)["batch_size"] == 4


def test_server_that_is_not_there_leaves_the_run_on_this_machine(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_tracker, "_INIT_TIMEOUT", 2.0)
    wandb.teardown()
    with open_writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
    (line,) = [s for s in capsys.readouterr().out.splitlines() if "reached" in s]
    folder = next((tmp_path / "wandb").glob("offline-run-*"))
    assert line.endswith(f"wandb sync {folder}")
    (records,) = read_runs(tmp_path)
    assert history(records) == [{"loss": 1.0, "step": 1}]


def test_machine_without_a_key_is_refused_unless_offline(monkeypatch, tmp_path):
    trackers.check("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    wandb.teardown()
    with pytest.raises(ValueError, match="isn't logged in .*wandb login"):
        trackers.check("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    trackers.check("wandb")
