"""Reads the files of a run without the code that wrote them, to compare two runs."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboard.backend.event_processing import event_accumulator

# Values measured by the clock differ between any two runs.
_TIMES = ("seconds", "images_per_second", "eval/seconds", "eval/images_per_second")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that must be equal in two equal runs.

    Attributes:
      step: step of the newest checkpoint.
      state: content of that checkpoint by name: arrays, and the data position's fields.
      records: the lines of metrics.jsonl.
      events: (step, value) of scalars and (step, bytes of the PNG) of pictures by name,
        in the order in which TensorBoard shows them.
      files: content of evaluations and pictures by name.
    """

    step: int
    state: dict[str, Any]
    records: list[dict[str, Any]]
    events: dict[str, list[tuple[int, Any]]]
    files: dict[str, Any]


def read_outcome(workdir: pathlib.Path) -> Outcome:
    """Reads the run in `workdir`, of any number of processes and on any mesh."""
    steps = [p for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal()]
    newest = max(steps, key=lambda path: int(path.name))
    return Outcome(
        step=int(newest.name),
        state=_read_state(newest),
        records=[
            _timeless(json.loads(line))
            for line in (workdir / "metrics.jsonl").read_text().splitlines()
        ],
        events=_read_events(workdir / "tensorboard"),
        files={
            **{
                path.name: _timeless(json.loads(path.read_text()))
                for path in (workdir / "evaluations").glob("*.json")
            },
            **{p.name: p.read_bytes() for p in (workdir / "pictures").glob("*.png")},
        },
    )


def differences(actual: Outcome, expected: Outcome) -> list[str]:
    """Returns a line for each difference, to the last bit; none for equal runs."""
    found = []
    if actual.step != expected.step:
        found.append(f"last checkpoint: {actual.step}, not {expected.step}")
    for name in sorted(actual.state.keys() | expected.state.keys()):
        pair = actual.state.get(name), expected.state.get(name)
        if not _same_bits(*pair):
            found.append(f"state {name}")
    for outcome in (actual, expected):
        told = [record["step"] for record in outcome.records]
        if told != sorted(set(told)):
            found.append(f"metrics.jsonl has the steps {told}")
        for name, values in outcome.events.items():
            told = [step for step, _ in values]
            if told != sorted(set(told)):
                found.append(f"TensorBoard shows of {name} the steps {told}")
    for field in ("records", "events", "files"):
        if getattr(actual, field) != getattr(expected, field):
            found.append(f"{field}: {_first_difference(actual, expected, field)}")
    return found


def _read_state(folder: pathlib.Path) -> dict[str, Any]:
    state = {}
    for item in ("params", "training"):
        # Arrays are restored as NumPy arrays, whatever devices they came from.
        handler = ocp.PyTreeCheckpointHandler()
        tree = handler.metadata(folder / item).tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), tree)
        restored = handler.restore(
            folder / item, args=ocp.args.PyTreeRestore(restore_args=arguments)
        )
        for path, leaf in jax.tree.leaves_with_path(restored):
            state[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    position = json.loads((folder / "position/metadata").read_text())
    return {**state, **{f"position.{name}": v for name, v in position.items()}}


def _read_events(folder: pathlib.Path) -> dict[str, list[tuple[int, Any]]]:
    # TensorBoard warns of each restart whose repeated steps it drops.
    event_accumulator.logger.setLevel("ERROR")
    everything = {"scalars": 0, "images": 0}
    accumulator = event_accumulator.EventAccumulator(str(folder), everything)
    accumulator.Reload()
    tags = accumulator.Tags()
    events = {}
    for name in tags["scalars"]:
        if not name.endswith(_TIMES):
            events[name] = [(e.step, e.value) for e in accumulator.Scalars(name)]
    for name in tags["images"]:
        pictures = accumulator.Images(name)
        events[name] = [(e.step, e.encoded_image_string) for e in pictures]
    return events


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in _TIMES}


def _same_bits(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return a == b
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def _first_difference(actual: Outcome, expected: Outcome, field: str) -> str:
    a, b = getattr(actual, field), getattr(expected, field)
    if field == "records":
        a, b = ({record["step"]: record for record in rows} for rows in (a, b))
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            return f"{key}: {str(a.get(key))[:300]}, not {str(b.get(key))[:300]}"
    return "the order"
