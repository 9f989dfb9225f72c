"""The recipe for a few hundred photographs of one's own, and a run's choices in it."""

from collections.abc import Collection, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from eomt_jax.own_data.choices import patch_size
from eomt_jax.own_data.weights import CHECKPOINT, Weights
from eomt_jax.training.options import default_config

DATASET = "photographs"
"""Name of the prepared dataset in a run's folder."""

_FINETUNE = {
    "batch_size": 8,
    "total_steps": 2000,
    "dataset.name": "mine",
    "augmentation.scale_range": (0.5, 2.0),
    "augmentation.color_jitter": True,
    "model.variant": "base",
    "optimizer.warmup_head": 100,
    "optimizer.warmup_vit": 200,
    "optimizer.published_steps": 2000,
    "checkpoint.every_steps": 500,
    "checkpoint.keep_best": 1,
    "eval.every_steps": 500,
    "eval.batch_size": 8,
    "logging.every_steps": 20,
    "logging.picture_every_steps": 500,
}
# Without pre-trained weights all layers learn from the first steps on, as in
# configs/quickstart.py.
_FROM_SCRATCH = {
    "init.from_scratch": True,
    "optimizer.layer_decay": 1.0,
    "optimizer.clip_norm": 1.0,
    "optimizer.warmup_head": 50,
    "optimizer.warmup_vit": 50,
    "criterion.num_points": 1024,
}
_CPU_POINTS = 2048


def finetune_config() -> ConfigDict:
    """Returns the locked recipe that configs/finetune.py describes."""
    config = default_config()
    config.update_from_flattened_dict(_FINETUNE)
    return config


def run_config(
    chosen: Mapping[str, Any],
    weights: Weights,
    *,
    data_dir: epath.PathLike,
    task: str,
    class_names: Collection[str],
) -> ConfigDict:
    """Returns the recipe of a run.

    Args:
      chosen: a value for each of `choices.OPTIONS` but the weights.
      weights: what it starts from.
      data_dir: the folder in which DATASET is prepared.
      task: what is scored; "" for the dataset's own.
      class_names: of the dataset.
    """
    config = finetune_config()
    steps = chosen["steps"]
    fields = {
        "dataset.name": DATASET,
        "dataset.data_dir": str(data_dir),
        "total_steps": steps,
        "eval.task": task,
        "eval.batch_size": chosen["batch_size"],
        "eval.every_steps": max(1, steps // 2),
        "logging.picture_every_steps": max(1, steps // 2),
        "checkpoint.every_steps": max(1, steps // 4),
        "model.variant": weights.variant,
        "model.patch_size": patch_size(weights),
    }
    for section, names in (
        ("", ("image_size", "batch_size", "accumulation", "seed")),
        ("model.", ("dtype", "remat", "num_queries")),
        ("optimizer.", ("learning_rate", "frozen_blocks")),
        ("logging.", ("tracker",)),
    ):
        # A run that was begun before an option was there has no value of it.
        fields |= {f"{section}{name}": chosen[name] for name in names if name in chosen}
    if chosen["dtype"] == "float32":  # on processors, where points cost more
        fields["criterion.num_points"] = _CPU_POINTS
    if weights.kind:
        fields[f"init.{weights.kind}"] = weights.path
    else:
        fields |= _FROM_SCRATCH
    if weights.kind == CHECKPOINT:
        stored, wanted = (
            {name.strip().casefold() for name in names}
            for names in (weights.class_names, class_names)
        )
        fields["init.class_head"] = "by_name" if stored & wanted else "auto"
    config.update_from_flattened_dict(fields)
    return config
