"""Evaluates a checkpoint on a prepared split."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from eomt_jax.evaluation.evaluator import evaluate, evaluation_task
from eomt_jax.evaluation.options import ScoringOptions
from eomt_jax.evaluation.out_of_distribution import INVALID
from eomt_jax.evaluation.pictures import PictureWriter
from eomt_jax.evaluation.submission import Submission
from eomt_jax.evaluation.tables import Results, check_replaceable, write_results
from eomt_jax.file_names import path_below
from eomt_jax.options import from_config
from eomt_jax.parallel.compilation_cache import enable_compilation_cache
from eomt_jax.parallel.host_memory import keep_freed_memory
from eomt_jax.parallel.mesh import check_batch_size, create_mesh, reader_of
from eomt_jax.parallel.partition import param_shardings, place
from eomt_jax.parallel.processes import is_main
from eomt_jax.pictures.comparison import write_picture
from eomt_jax.pictures.confusion import draw_confusion
from eomt_jax.pictures.reliability import draw_reliability
from eomt_jax.pipeline.loader import BatchIterator, eval_batches
from eomt_jax.pipeline.records import open_split
from eomt_jax.pipeline.samples import Source
from eomt_jax.predict.runner import Runner
from eomt_jax.task_registry import get_task
from eomt_jax.types import DatasetInfo
from eomt_jax.weights.load import Loaded, open_network
from eomt_jax.weights.native import model_folder


def evaluate_checkpoint(
    config: ConfigDict,
    path: epath.PathLike,
    *,
    backbone: epath.PathLike = "",
    split: str = "",
    task: str = "",
    out: epath.PathLike = "",
    num_pictures: int = 0,
    predictions: epath.PathLike = "",
    confidence: str = "",
    progress: Callable[[int, int, float], None] | None = None,
) -> Results:
    """Loads a model, evaluates it as config says, and writes the results.

    The network is built as the checkpoint describes it; of config.model only the fields
    dtype and inference are read.

    Args:
      config: the recipe, of which the fields of ScoringOptions are read.
      path: work directory of a training, from which the best step is taken if it was
        kept and the newest otherwise; or what else `weights.load.open_network` takes.
      backbone: the weights that a checkpoint of differences belongs to, see there.
      split: a split of the prepared dataset; config.dataset.eval_split by default.
      task: what is measured; config.eval.task by default, and the task of the
        dataset's annotations if that is "".
      out: JSON file for the results; by default evaluation_DATASET_SPLIT_STEP.json in
        the folder `path`, with _TASK before its ending if the task isn't the dataset's
        own; the step is 0 for weights that no training of ours wrote. The confusion
        matrix of a semantic evaluation is drawn beside it, in a file of its name and
        _confusion.png, and so is the reliability of confidences, if they are measured.
      num_pictures: how many images are drawn, the first of the split, into a folder
        beside `out` with its name and _pictures.
      predictions: new folder for all predictions, see submission.Submission; by
        default they aren't written.
      confidence: kind of confidence that is measured and written too, for the semantic
        task; see confidence.KINDS.
      progress: called with the images done, the images in all, and images a second.

    Returns:
      The results of evaluator.evaluate; and dataset, split, step, checkpoint,
      image_size, and the JSON file's path as file.

    Raises:
      ValueError: there is no complete checkpoint, its classes aren't the dataset's, the
        dataset's annotations can't tell how good it is at the task, predictions lie
        there already, `path` is no folder and `out` isn't given, or `out` is there and
        isn't an evaluation of this split.
    """
    read = {field.name for field in dataclasses.fields(ScoringOptions)}
    options = from_config(ScoringOptions, {name: config[name] for name in read})
    keep_freed_memory()
    enable_compilation_cache(options.compilation_cache)
    mesh = create_mesh(options.mesh)
    check_batch_size(options.eval.batch_size, mesh, field="config.eval.batch_size")
    data, split = options.dataset, split or options.dataset.eval_split
    source = open_split(data.data_dir, data.name, split)
    info = source.info
    chosen = evaluation_task(task or options.eval.task, info)
    if confidence:
        get_task(chosen).confidence_metric(info)  # raises if there is none
    checkpoint, notes = model_folder.chosen_step(path)
    if is_main():
        for note in filter(None, [*notes, get_task(chosen).class_note(info)]):
            print(note, flush=True)
    name = epath.Path(checkpoint).name
    step = int(name) if model_folder.is_native(checkpoint) and name.isdigit() else 0
    out = (
        epath.Path(out).expanduser()
        if out
        else _default_out(path, step, source, chosen)
    )
    check_replaceable(out, data.name, split)
    size = (options.image_size, options.image_size)
    inference = options.model.inference
    opened = open_network(
        checkpoint,
        backbone=backbone,
        image_size=size,
        dtype=options.model.dtype,
        masked_inference=inference == "masked" if inference else None,
    )
    info = _measured_classes(opened, info, checkpoint, task=chosen)
    num_images = min(options.eval.num_images or len(source), len(source))

    def local_progress(done: int, speed: float) -> None:
        if progress is not None:
            progress(done, num_images, speed)

    with contextlib.ExitStack() as stack:
        on_batch = []
        if predictions:
            submission = Submission(predictions, source, task=chosen)
            on_batch.append(stack.enter_context(submission))
        if num_pictures:
            folder = out.parent / f"{out.stem}_pictures"
            on_batch.append(
                PictureWriter(folder, source, task=chosen, num_pictures=num_pictures)
            )
        shardings = param_shardings(opened.params, mesh, opened.model.partition_rules())
        params = jax.tree.map(place, opened.params, shardings)
        batches = config_batches(
            options, source, task=chosen, num_images=num_images, mesh=mesh
        )
        runner = Runner(
            opened.model,
            info,
            task=chosen,
            mesh=mesh,
            skip_padding=options.eval.skip_padding,
            confidence=confidence,
        )
        results = {
            "dataset": data.name,
            "split": split,
            "step": step,
            "checkpoint": str(checkpoint),
            "image_size": options.image_size,
            "file": str(out),
            **evaluate(
                runner,
                params,
                runner.regroup(stack.enter_context(batches)),
                info=info,
                source=source,
                confidence=bool(confidence),
                on_batch=on_batch,
                progress=local_progress,
            ),
        }
    if is_main():
        write_results(results, out)
        confusion = np.array(results.get("confusion", []), np.int64)
        if confusion.any():
            names = [row.name for row in info.classes]
            picture = draw_confusion(confusion, names, title=f"{data.name}, {split}")
            write_picture(out.parent / f"{out.stem}_confusion.png", picture)
        if confidence and any(results["reliability"]["pixels"]):
            picture = draw_reliability(
                **results["reliability"], title=f"{data.name}, {split}"
            )
            write_picture(out.parent / f"{out.stem}_reliability.png", picture)
    return results


def _default_out(
    path: epath.PathLike, step: int, source: Source, task: str
) -> epath.Path:
    folder = epath.Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{path} is no folder to write results into: give --out.")
    name = f"evaluation_{source.info.name}_{source.split}_{step}"
    if task != source.info.task:
        name += f"_{task}"
    return path_below(folder, name, what="name of the results", ending=".json")


def config_batches(
    options: ScoringOptions,
    source: Source,
    *,
    task: str,
    num_images: int,
    mesh: Mesh,
) -> BatchIterator:
    """Returns the evaluation batches with this process's rows, read as config says.

    Args:
      options: options of the run.
      source: the split.
      task: what is measured.
      num_images: how many images are read, the first of the split; 0 reads all.
      mesh: the mesh that the batches will lie on.
    """
    reader = reader_of(mesh)
    return eval_batches(
        source,
        global_batch_size=options.eval.batch_size,
        image_size=options.image_size,
        task=task,
        num_examples=num_images,
        reader_index=reader.index,
        num_readers=reader.count,
        num_threads=options.dataset.num_threads,
        num_workers=options.dataset.num_workers,
    )


def _measured_classes(
    opened: Loaded, wanted: DatasetInfo, path: epath.PathLike, *, task: str
) -> DatasetInfo:
    """Returns the dataset's class table without a class of invalid pixels.

    Such a class is the last one and is called INVALID. The semantic task measures the
    classes without it, and the confidences with it, see OutOfDistribution.

    Raises:
      ValueError: labels don't mean the same to the model and the dataset.
    """
    has_more = len(wanted.classes) == opened.model.num_classes + 1
    if has_more and wanted.classes[-1].name == INVALID and task == "semantic":
        wanted = dataclasses.replace(wanted, classes=wanted.classes[:-1])
    trained = opened.dataset_info
    if trained is None:
        # Without names only the number of classes can be compared.
        if opened.model.num_classes != wanted.num_classes:
            raise ValueError(
                f"{path} predicts {opened.model.num_classes} classes and {wanted.name} "
                f"has {wanted.num_classes}. Give the config of the dataset that it was "
                "trained on."
            )
        return wanted
    one, other = ([c.name for c in info.classes] for info in (trained, wanted))
    if one == other:
        return wanted
    first = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), None)
    where = (
        ""
        if first is None
        else f"; label {first}: {one[first]:.80}, {other[first]:.80}"
    )
    raise ValueError(
        f"{path} was trained on {trained.name} with {len(one)} classes and "
        f"{wanted.name} has {len(other)} other ones{where}. Give the config of the "
        "dataset it was trained on."
    )
