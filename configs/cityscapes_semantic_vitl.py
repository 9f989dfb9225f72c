"""EoMT-L, Cityscapes semantic, 1024 px, 107 epochs.

  python train.py --config=configs/cityscapes_semantic_vitl.py --workdir=runs/cityscapes \
      --config.init.backbone=dinov2_vitl14_reg4_pretrain.pth

Published: 84.2 mIoU (arXiv 2503.19108; DINOv2 with registers), evaluated in windows.
Hardware and hours: not published. remat is on, at about a third more time, so that the
activations of 4,096 patches fit. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.image_size = 1024
    config.epochs = 107
    config.dataset.name = "cityscapes_semantic"
    config.augmentation.scale_range = (0.5, 2.0)
    config.augmentation.color_jitter = True
    config.model.variant = "large"
    config.model.num_queries = 100
    config.model.remat = True
    # 107 epochs of 185 whole batches; the release's lists are of 107 × 186 steps,
    # though its loader drops the last, partial batch too.
    config.optimizer.published_steps = 19_795
    config.annealing.length = 19_902 / 19_795
    return config
