"""A small EoMT on drawn shapes, from scratch, on a laptop's processor.

  python train.py --config=configs/quickstart.py --workdir=runs/quickstart

Downloads nothing: the images are drawn on first use. docs/results.md has time and scores.

What differs from the published recipe, and why. That one fine-tunes a pre-trained ViT at
learning rates and a clip far too small for weights drawn at random; here every layer
learns at one, ten times higher rate from the first steps on, with the usual clip at 1.
Its masked attention fades out over these few steps as the published one's does over its
many. The images are 64 pixels wide, so the patches are smaller and there are
fewer queries and points.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.image_size = 64
    config.total_steps = 900
    config.dataset.name = "shapes"
    config.augmentation.scale_range = (1.0, 1.0)
    config.model.variant = "tiny"
    config.model.patch_size = 8
    config.model.num_queries = 16
    config.model.dtype = "float32"  # processors compute in nothing less
    config.optimizer.learning_rate = 1e-3
    config.optimizer.layer_decay = 1.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.warmup_head = 50
    config.optimizer.warmup_vit = 50
    config.optimizer.published_steps = 900
    config.criterion.num_points = 1024
    config.checkpoint.every_steps = 300
    config.checkpoint.keep = 2
    config.eval.every_steps = 300
    config.logging.every_steps = 20
    config.logging.picture_every_steps = 300
    return config
