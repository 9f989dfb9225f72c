"""EoMT-L on DINOv3, ADE20K semantic, 512 px, 16 epochs.

  python train.py --config=configs/ade20k_semantic_dinov3_vitl.py --workdir=runs/dinov3_ade20k_semantic \
      --config.init.backbone=facebook/dinov3-vitl16-pretrain-lvd1689m

Published: 59.5 mIoU (model_zoo/dinov3.md of tue-mps/eomt; DINOv3), evaluated in
windows. All of the ViT learns at one rate; the release's configuration names a factor
of 0.1 on it that its code never reaches. Hardware and hours: not published. Not yet
trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_dinov3_config()
    config.image_size = 512
    config.epochs = 16
    config.dataset.name = "ade20k_semantic"
    config.augmentation.scale_range = (0.5, 2.0)
    config.augmentation.color_jitter = True
    config.model.variant = "dinov3_large"
    config.model.num_queries = 100
    config.optimizer.layer_decay = 1.0
    # 16 epochs of 1,263 batches; the release's lists are of 19,560 steps.
    config.optimizer.published_steps = 20_208
    config.annealing.length = 19_560 / 20_208
    config.annealing.first_block_end = 3000
    return config
