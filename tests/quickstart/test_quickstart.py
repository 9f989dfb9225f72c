"""The quickstart, cut to about 90 seconds, scores above a constant prediction."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from eomt_jax.evaluation import baseline, evaluator
from eomt_jax.pipeline import loader, records

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
def test_short_quickstart_beats_the_most_frequent_class(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "train.py",
            "--config=configs/quickstart.py",
            f"--workdir={tmp_path}/run",
            f"--config.dataset.data_dir={tmp_path}/data",
            "--config.total_steps=250",
        ],
        cwd=ROOT,
        # This is long enough for optimized programs, unlike the other tests.
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        },
        check=True,
        timeout=550,
    )
    trained = json.loads((tmp_path / "run/evaluations/00000250.json").read_text())

    train = records.open_split(tmp_path / "data", "shapes", "train[:200]")
    validation = records.open_split(tmp_path / "data", "shapes", "validation")
    examples = (train[i] for i in range(len(train)))
    label = baseline.most_frequent_class(examples, train.info.num_classes)
    constant = evaluator.evaluate(
        baseline.ConstantClass(label, train.info),
        {},
        loader.eval_batches(validation, global_batch_size=16, image_size=64),
        info=validation.info,
    )
    assert constant["all"]["pq"] > 0
    assert trained["stuff"]["pq"] > 50 + constant["stuff"]["pq"]
    assert trained["all"]["pq"] > 25 + constant["all"]["pq"]
