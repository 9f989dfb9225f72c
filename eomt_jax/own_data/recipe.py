"""The recipe for a few hundred photographs of one's own, and what a CPU changes of it."""

from ml_collections import ConfigDict

from eomt_jax.training.options import default_config


def finetune_config() -> ConfigDict:
    """Returns the locked recipe that configs/finetune.py describes."""
    config = default_config()
    config.batch_size = 8
    config.total_steps = 2000
    config.dataset.name = "mine"
    config.augmentation.scale_range = (0.5, 2.0)
    config.augmentation.color_jitter = True
    config.model.variant = "base"
    config.optimizer.warmup_head = 100
    config.optimizer.warmup_vit = 200
    config.optimizer.published_steps = 2000
    config.checkpoint.every_steps = 500
    config.checkpoint.keep_best = 1
    config.eval.every_steps = 500
    config.eval.batch_size = 8
    config.logging.every_steps = 20
    config.logging.picture_every_steps = 500
    return config
