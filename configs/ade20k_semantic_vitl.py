"""EoMT-L, ADE20K semantic, 512 px, 31 epochs.

  python train.py --config=configs/ade20k_semantic_vitl.py --workdir=runs/ade20k_semantic \
      --config.init.backbone=dinov2_vitl14_reg4_pretrain.pth

Published: 58.4 mIoU (arXiv 2503.19108; DINOv2 with registers), evaluated in windows.
Hardware and hours: not published. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.image_size = 512
    config.epochs = 31
    config.dataset.name = "ade20k_semantic"
    config.augmentation.scale_range = (0.5, 2.0)
    config.augmentation.color_jitter = True
    config.model.variant = "large"
    config.model.num_queries = 100
    config.optimizer.published_steps = 39_120
    # The release's lists are of this length; 31 epochs of 1,263 batches are 39,153.
    config.annealing.length = 39_120 / 39_153
    return config
