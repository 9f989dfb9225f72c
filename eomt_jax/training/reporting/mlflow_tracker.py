"""MLflow as a tracker: a server, a database or a folder.

MLFLOW_TRACKING_URI says where runs go; without it they go where MLflow itself puts them,
which is the file mlflow.db of the current folder.
"""

import importlib
import logging
import time
from typing import Any

import numpy as np

from eomt_jax.options import fields_of
from eomt_jax.training.reporting.logging import Scalars, say
from eomt_jax.training.reporting.trackers import THREAD, RunToShow

ID_TAG = "eomt_jax.run"
# A server takes at most so many parameters at a time.
_MAX_PARAMS = 100


class MlflowTracker:
    """A run of an experiment of MLflow, which a tag of its own identifies."""

    def __init__(self, run: RunToShow):
        """Prepares a run that `open` begins."""
        self._shown = run
        self._entities: Any = None
        self._client: Any = None
        self._run_id = ""

    def open(self, run_id: str) -> None:
        """Begins the run, or continues the one of that tag."""
        shown = self._shown
        self._entities = importlib.import_module("mlflow.entities")
        self._client = importlib.import_module("mlflow").MlflowClient()
        # One sentence says that a server is gone, instead of a warning for each attempt.
        logging.getLogger("urllib3.connectionpool").addFilter(_is_of_another_thread)
        client = self._client
        experiment = client.get_experiment_by_name(shown.project)
        if experiment is None:
            experiment_id = client.create_experiment(shown.project)
        else:
            experiment_id = experiment.experiment_id
        found = client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{run_id}'")
        if found:
            self._run_id = found[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
        else:
            tags = {ID_TAG: run_id}
            run = client.create_run(experiment_id, run_name=shown.name, tags=tags)
            self._run_id = run.info.run_id
            # Parameters can't change later, so they are those that the run began with.
            fields = fields_of(shown.config).items()
            params = [self._entities.Param(name, str(value)) for name, value in fields]
            for i in range(0, len(params), _MAX_PARAMS):
                client.log_batch(self._run_id, params=params[i : i + _MAX_PARAMS])
        client.log_dict(self._run_id, shown.config, "config.json")
        # An address may begin with a user's name and password.
        where = client.tracking_uri.rpartition("@")[2]
        say(f"MLflow shows this run as {shown.name} of {shown.project} in {where}.")

    def scalars(self, step: int, values: Scalars) -> None:
        """Shows finite numbers of a step."""
        now = int(time.time() * 1000)
        metric = self._entities.Metric
        metrics = [metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        self._client.log_image(self._run_id, picture, key=name, step=step)

    def close(self, *, failed: bool) -> None:
        """Ends the run, which can be continued later."""
        self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")


def _is_of_another_thread(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD
