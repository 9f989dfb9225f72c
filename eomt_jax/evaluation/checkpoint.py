"""Scores a checkpoint on a prepared split."""

from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from eomt_jax.evaluation.evaluator import Results, evaluate
from eomt_jax.inference.runner import Runner
from eomt_jax.parallel.mesh import check_batch_size, create_mesh
from eomt_jax.parallel.partition import param_shardings
from eomt_jax.pipeline.loader import eval_batches
from eomt_jax.pipeline.records import open_split
from eomt_jax.types import DatasetInfo
from eomt_jax.weights import native
from eomt_jax.weights.load import load


def evaluate_checkpoint(
    config: Any,
    path: epath.PathLike,
    *,
    split: str = "",
    progress: Callable[[int, int, float], None] | None = None,
) -> Results:
    """Loads a model and measures its panoptic quality, as config says.

    Of the config are read: image_size, dataset, mesh, model.dtype, and eval.batch_size
    and eval.num_images. The network itself is the checkpoint's.

    Args:
      config: a ConfigDict as configs/common.py lists it.
      path: work directory of a training, checkpoint folder, or one step of it; of
        several steps the newest complete one counts.
      split: of the prepared dataset; config.dataset.eval_split by default.
      progress: called with images done, images in all, images a second.

    Returns:
      See evaluator.evaluate; and dataset, split, step, checkpoint, image_size.

    Raises:
      ValueError: there is no complete checkpoint, or its classes aren't the dataset's.
    """
    mesh = create_mesh(**config.mesh)
    check_batch_size(config.eval.batch_size, mesh, field="config.eval.batch_size")
    data, split = config.dataset, split or config.dataset.eval_split
    source = open_split(data.data_dir, data.name, split)
    # A step by name: a training that is still running may write a newer one meanwhile.
    step = native.step_folder(path)
    _check_classes(native.read_model_config(step).dataset_info, source.info, step)
    size = (config.image_size, config.image_size)
    model, params = load(step, image_size=size, dtype=config.model.dtype)
    params = jax.device_put(params, param_shardings(params, mesh))
    num_images = min(config.eval.num_images or len(source), len(source))

    def local_progress(done: int, speed: float) -> None:
        if progress is not None:
            progress(done, num_images, speed)

    with eval_batches(
        source,
        global_batch_size=config.eval.batch_size,
        image_size=config.image_size,
        num_examples=num_images,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=data.num_threads,
        num_workers=data.num_workers,
    ) as batches:
        results = evaluate(
            Runner(model, source.info, mesh=mesh),
            params,
            batches,
            info=source.info,
            progress=local_progress,
        )
    return {
        "dataset": data.name,
        "split": split,
        "step": int(step.name),
        "checkpoint": str(step),
        "image_size": config.image_size,
        **results,
    }


def _check_classes(
    trained: DatasetInfo | None, wanted: DatasetInfo, path: epath.Path
) -> None:
    """A label must mean the same to the model and to the dataset."""
    if trained is None:
        return
    one, other = ([c.name for c in info.classes] for info in (trained, wanted))
    if one == other:
        return
    first = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), None)
    where = "" if first is None else f"; label {first}: {one[first]}, {other[first]}"
    raise ValueError(
        f"{path} was trained on {trained.name} with {len(one)} classes and "
        f"{wanted.name} has {len(other)} other ones{where}. Give the config of the "
        "dataset it was trained on."
    )
