"""Reads back what a run recorded in metrics.jsonl."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int

METRICS_FILE = "metrics.jsonl"

Record = dict[str, Any]


def read_records(workdir: epath.PathLike) -> list[Record]:
    """Returns all records in their order, without a line that a killed process tore.

    Raises:
      ValueError: the folder has no such file.
    """
    path = epath.Path(workdir).expanduser() / METRICS_FILE
    if not path.exists():
        raise ValueError(f"{path} doesn't exist: give the folder of a run")
    records = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def values_of(
    records: Sequence[Record], metric: str
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Returns steps and values of the records that have the metric, NaN for null."""
    found = [record for record in records if metric in record]
    values = [math.nan if r[metric] is None else r[metric] for r in found]
    steps = [record["step"] for record in found]
    return np.asarray(steps, np.int64), np.asarray(values, np.float64)
