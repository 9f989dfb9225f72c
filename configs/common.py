"""The base of all recipes: every option, with the published values of COCO panoptic.

A recipe is a file with `get_config()` that takes this one and changes what differs. Each
field can be changed on the command line, `--config.batch_size=8`; the set of fields is
fixed, so a misspelt name is refused. `python train.py --help` lists them all with what
they do, their ranges and defaults, which stand beside each component: see
`eomt_jax.training.options.RunOptions`.
"""

import ml_collections

from eomt_jax.training.options import default_config


def get_config() -> ml_collections.ConfigDict:
    """Returns the locked base of all recipes."""
    return default_config()


def get_dinov3_config() -> ml_collections.ConfigDict:
    """Returns the locked base of recipes that start from DINOv3: other rates and warm-ups."""
    config = get_config()
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_head = 2000
    config.optimizer.warmup_vit = 3000
    return config
