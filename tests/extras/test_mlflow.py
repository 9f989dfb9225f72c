"""MLflow's file store and database: what they hold is read back."""

import json

import mlflow
import numpy as np
import pytest
from PIL import Image

from eomt_jax.training.checkpoints.stored_step import Score
from eomt_jax.training.reporting import trackers
from eomt_jax.training.reporting.metrics_writer import MetricsWriter

# SQLAlchemy and Alembic warn of what MLflow uses of them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CONFIG = {"batch_size": 2, "model": {"variant": "tiny"}, "scale": (0.5, 2.0)}


@pytest.fixture(params=["files", "database"])
def client(request, tmp_path, monkeypatch):
    """Returns a client of an empty store, to which runs go."""
    uri = {
        "files": (tmp_path / "store").as_uri(),
        "database": f"sqlite:///{tmp_path}/mlflow.db",
    }[request.param]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient()


def open_writer(workdir, *, step=0, config=CONFIG):
    shown = trackers.RunToShow("shapes", "mine", config, workdir)
    tracking = trackers.create("mlflow", shown)
    return MetricsWriter(workdir, step=step, tracking=tracking)


def find_run(client):
    experiment = client.get_experiment_by_name("shapes")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def history(client, run, name):
    metrics = client.get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in metrics]


def test_run_arrives_with_config_scores_and_pictures(client, tmp_path, capsys):
    picture = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    with open_writer(tmp_path) as writer:
        writer.scalars(3, {"loss": 1.5, "eval/ap": 12.5})
        writer.flush()
        writer.image(3, "predictions", picture)
        writer.best(4, (3, Score("AP", 12.5)))
    assert "MLflow shows this run as mine of shapes" in capsys.readouterr().out
    run = find_run(client)
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params == {
        "batch_size": "2",
        "model.variant": "tiny",
        "scale": "(0.5, 2.0)",
    }
    assert history(client, run, "eval/ap") == [(3, 12.5)]
    assert history(client, run, "best/AP") == [(4, 12.5)]
    files = client.list_artifacts(run.info.run_id, "images")
    (path,) = [file.path for file in files if file.path.endswith(".png")]
    assert path.startswith("images/predictions+step+3+")
    local = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path=path
    )
    with Image.open(local) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_resumed_run_goes_on_with_the_new_config(client, tmp_path):
    with pytest.raises(RuntimeError), open_writer(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.scalars(2, {"loss": 2.0})
        raise RuntimeError
    assert find_run(client).info.status == "FAILED"
    with open_writer(tmp_path, step=1, config={"batch_size": 4}) as writer:
        writer.scalars(1, {"eval/ap": 5.0})
        writer.scalars(2, {"loss": 2.0})
        writer.scalars(3, {"loss": 3.0})
    run = find_run(client)
    assert run.info.status == "FINISHED"
    assert history(client, run, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert history(client, run, "eval/ap") == [(1, 5.0)]
    assert run.data.params["batch_size"] == "2"
    config = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.json")
    assert json.loads(config) == {"batch_size": 4}


def test_more_fields_than_a_server_takes_at_a_time_arrive(client, tmp_path):
    config = {f"field_{i}": i for i in range(150)}
    with open_writer(tmp_path, config=config):
        pass
    assert len(find_run(client).data.params) == 150


def test_server_that_is_not_there_does_not_end_the_run(
    tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with open_writer(tmp_path) as writer:
        writer._tracking._thread.join()
        writer.scalars(1, {"loss": 1.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("MLflow does not show this run (MlflowException: ")
    assert "secret" not in line
    assert not [r for r in caplog.records if r.name.startswith("urllib3")]
