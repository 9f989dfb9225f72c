"""A recipe that does everything a long run does in seconds, for runs that are killed.

python train.py --config=tests/chaos/recipe.py --workdir=… --config.dataset.data_dir=…
"""

import ml_collections

from tests.training.conftest import make_config, register_micro_variant


def get_config() -> ml_collections.ConfigDict:
    register_micro_variant()
    config = make_config("")
    config.batch_size = 4
    config.total_steps = 200
    config.optimizer.published_steps = 200
    config.checkpoint.every_steps = 5
    config.eval.every_steps = 20
    config.eval.batch_size = 4
    config.logging.picture_every_steps = 20
    config.logging.num_pictures = 1
    return config
