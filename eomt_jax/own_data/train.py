"""Trains on a user's own photographs: prepares, looks, chooses, trains, scores, draws."""

import dataclasses
import os
import shlex
from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from eomt_jax import json_files
from eomt_jax.datasets import preview
from eomt_jax.datasets.prepare import prepare
from eomt_jax.datasets.splits import TRAIN, parse_split_paths
from eomt_jax.evaluation.evaluator import evaluation_task
from eomt_jax.evaluation.tables import Results, headline
from eomt_jax.own_data import choices, run_folder
from eomt_jax.own_data.device_fit import fits_device, this_machine
from eomt_jax.own_data.evaluate import evaluate
from eomt_jax.own_data.notes import notes_in_lines
from eomt_jax.own_data.places import Paths, Recognized, as_texts
from eomt_jax.own_data.recipe import DATASET, patch_size, run_config
from eomt_jax.own_data.recognize import recognize
from eomt_jax.own_data.run_folder import Plan
from eomt_jax.own_data.weights import find_weights
from eomt_jax.parallel.gpu_memory import claim_most_memory
from eomt_jax.pipeline import records
from eomt_jax.training import guards, loop
from eomt_jax.training.reporting import trackers
from eomt_jax.training.reporting.logging import say
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.native import model_folder

CONTACT_SHEET = "contact_sheet.png"
PREDICTIONS = "predictions.png"
_MAX_COUNTED = 5000  # photographs
_NUM_SAMPLES = 12
_NUM_TRAINED_ON = 20


def train(
    data: Paths,
    out: epath.PathLike,
    *,
    task: str = "",
    classes: epath.PathLike = "",
    **given: Any,
) -> Results:
    """Trains on photographs and their labels, and scores the photographs held out.

    Everything that isn't given is chosen by the data, the device and the weights that
    are there, and printed. A training that was interrupted goes on when it is called
    again, and so does a finished one with more steps.

    Args:
      data: photographs and labels, see `recognize.recognize`: for instance ("photos",
        "masks") or ("photos", "instances.json").
      out: a new folder for everything that is written; or that of the training to go
        on with.
      task: what is learnt and scored, if the labels leave it open.
      classes: a class list, for masks.
      **given: values of `choices.OPTIONS`, such as steps=500 or weights="dinov2.pth",
        and of `choices.DATA_OPTIONS`.

    Returns:
      The scores of the best checkpoint on the photographs held out, as
      evaluation.scoring.evaluate_checkpoint returns them; on those trained on if there
      are no others.

    Raises:
      ImportError: the tracker that is asked for isn't installed.
      ValueError: there are no such data, they are of another kind, they can't give the
        task, a value is out of its range, or `out` holds something else. Nothing has
        been written then.
      guards.Interrupted: a signal stopped the run; it is saved.
    """
    choices.check(given)
    trackers.check(given.get("tracker") or "")
    given = {name: value for name, value in given.items() if value is not None}
    how = {name: given.pop(name) for name in choices.DATA_OPTIONS if name in given}
    folder = epath.Path(out).expanduser()
    paths = as_texts(data)
    run_folder.check_free(folder, paths)
    claim_most_memory()
    with notes_in_lines():
        plan = run_folder.read_plan(folder)
        found = recognize(paths, task=task, classes=classes, **how)
        if plan is None or not plan.choices:
            plan = _begin(found, folder, task=task, given=given)
        else:
            _check_same(plan, folder, found, task=task, given=given)
            say(f"This goes on with the training in {folder}.")
            plan.choices |= {k: v for k, v in given.items() if k != "weights"}
        info = records.read_info(folder / run_folder.DATA_FOLDER, DATASET)
        config = _config(plan, folder, info)
        run_folder.write_plan(folder, plan)
        try:
            loop.train(config, folder)
        except guards.Interrupted:
            say("Give the same command again, and the training goes on.")
            raise
    again = {"task": task, "classes": os.fspath(classes), **how, **given}
    again["steps"] = 2 * plan.choices["steps"]
    return _report(folder, _command(paths, folder, again))


def _begin(
    found: Recognized, folder: epath.Path, *, task: str, given: dict[str, Any]
) -> Plan:
    """Prepares the data, shows them, and chooses; returns the plan."""
    _check_task(task, found)
    say(found.sentence)
    machine = this_machine()
    weights = find_weights(given.get("weights", ""), on_cpu=machine.platform == "cpu")
    choices.check_with_weights(given, weights)
    validation = given.get("validation", _default_share(found))
    with run_folder.removed_on_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if found.class_list:
            path = folder / run_folder.CLASSES_FILE
            path.write_text(found.class_list)
            found.options["classes"] = os.path.abspath(path)
        plan = Plan(found, run_folder.contents(found), task, weights=weights)
        run_folder.write_plan(folder, plan)
        info = prepare(
            DATASET,
            folder / run_folder.DATA_FOLDER,
            builder=found.format,
            validation=validation,
            **found.options,
        )
    source = records.open_split(folder / run_folder.DATA_FOLDER, DATASET, "train")
    data = choices.Data(len(source), max(info.max_image_size), info.max_segments)
    plan.choices = choices.choose(machine, data, weights, given)
    if validation is None:
        del plan.choices["validation"]  # The data's own splits decide.
    if machine.platform != "cpu":
        rows = max(1, plan.choices["batch_size"] // machine.num_devices)
        candidates = choices.smaller(plan.choices, rows=rows, patch=patch_size(weights))
        plan.choices = choices.first_that_fits(
            candidates,
            given,
            lambda chosen: fits_device(
                _config(dataclasses.replace(plan, choices=chosen), folder, info)
            ),
        )
    _show(
        source,
        folder,
        image_size=plan.choices["image_size"],
        patch_size=patch_size(weights),
    )
    say(weights.sentence)
    say(f"Chosen for {machine}, where not given; each is a flag:")
    for name, value in plan.choices.items():
        say(f"  {_flag(name, value):<24}{choices.OPTIONS[name].sentence}")
    return plan


def _default_share(found: Recognized) -> float | None:
    """Returns the share to hold out; None where the data may have splits of their own."""
    if found.format in ("yolo", "cvat"):
        return None
    names = ("images", "annotations", "masks")
    texts = [found.options[name] for name in names if name in found.options]
    named = {split for text in texts for split in parse_split_paths(text)}
    return None if named - {"", TRAIN} else choices.OPTIONS["validation"].default


def _check_task(task: str, found: Recognized) -> None:
    """Raises ValueError if the labels can't give the task."""
    if task:
        name = found.options.get("annotations") or found.options["masks"]
        evaluation_task(task, DatasetInfo(name, (), (1, 1), 1, {}, task=found.task))


def _check_same(
    plan: Plan,
    folder: epath.Path,
    found: Recognized,
    *,
    task: str,
    given: dict[str, Any],
) -> None:
    """Raises ValueError if a training is continued with what it wasn't begun with."""
    if found.class_list:
        path = folder / run_folder.CLASSES_FILE
        found.options["classes"] = os.path.abspath(path)
    differing = [
        f"{name} was {plan.contents.get(name)} and is {value}"
        for name, value in run_folder.contents(found).items()
        if plan.contents.get(name) != value
    ]
    weights = plan.weights.path if plan.weights else ""
    before = {"weights": weights or "none", **plan.choices}
    for name in ("weights", "validation", "seed"):
        if name in given and given[name] != before.get(name):
            differing.append(f"{name} was {before.get(name)} and is {given[name]}")
    if task != plan.task:
        differing.append(f"task was {plan.task or 'not given'} and is {task or 'not'}")
    if differing:
        raise ValueError(
            f"--out={folder} holds the training on other data or weights "
            f"({'; '.join(differing)}): name a new folder"
        )


def _config(plan: Plan, folder: epath.Path, info: DatasetInfo) -> ConfigDict:
    assert plan.weights is not None
    return run_config(
        plan.choices,
        plan.weights,
        data_dir=folder / run_folder.DATA_FOLDER,
        task=plan.task if plan.task != info.task else "",
        class_names=[row.name for row in info.classes],
    )


def _show(source: Any, folder: epath.Path, *, image_size: int, patch_size: int) -> None:
    """Prints counts and problems of the training photographs, and draws some."""
    info = source.info
    chosen = preview.spread(len(source), _MAX_COUNTED)
    sizes = {"image_size": image_size, "patch_size": patch_size}
    counts = preview.count((source[i] for i in chosen), info, **sizes)
    say(preview.format_counts(counts, info))
    for problem in preview.find_problems(counts, info, **sizes):
        say(f"warning: {problem}")
    samples = [source[i] for i in preview.spread(len(source), _NUM_SAMPLES)]
    path = folder / CONTACT_SHEET
    with path.open("wb") as file:
        preview.draw_sheet(samples, info).save(file, format="PNG")
    say(f"The photographs with their labels: {path}")


def _command(paths: Sequence[str], folder: epath.Path, flags: dict[str, Any]) -> str:
    """Returns the command that trains with these flags."""
    words = ["eomt-train", *paths, f"--out={folder}"]
    words += [_flag(name, value) for name, value in flags.items() if value != ""]
    return shlex.join(words)


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"


def _report(folder: epath.Path, longer: str) -> Results:
    """Says what came out and what to do next; returns the best scores."""
    checkpoint, _ = model_folder.chosen_step(folder)
    step = int(epath.Path(checkpoint).name)
    file = folder / f"evaluations/{step:08d}.json"
    (folder / f"pictures/{step:08d}.png").copy(folder / PREDICTIONS, overwrite=True)
    say("For comparison, photographs that were trained on are predicted too …")
    trained_on = evaluate(folder, split="train", num_images=_NUM_TRAINED_ON)
    # There is none if the user's splits have none for validation.
    held_out = json_files.read_object(file) if file.exists() else None
    say(f"\nScores after step {step}:")
    if held_out:
        say(f"  {_describe(held_out)} held out")
    say(f"  {_describe(trained_on)} that it was trained on")
    say(f"Predictions beside the truth: {folder / PREDICTIONS}")
    pictures = epath.Path(trained_on["file"]).with_suffix("")
    say(f"  and on photographs that it was trained on: {pictures}_pictures")
    out = shlex.quote(str(folder))
    say("To predict new photographs:")
    say(f"  eomt-predict NEW_PHOTOS --checkpoint={out} --out=predictions")
    say("To train longer, from here:")
    say(f"  {longer}")
    return held_out or trained_on


def _describe(results: Results) -> str:
    name, value = headline(results)
    score = "not measurable" if value is None else f"{value:.1f}"
    number = results["num_images"]
    return f"{name} {score} on {number} photograph{'s' * (number != 1)}"
