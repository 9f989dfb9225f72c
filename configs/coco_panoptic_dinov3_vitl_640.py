"""EoMT-L on DINOv3, COCO panoptic, 640 px, 12 epochs.

  python train.py --config=configs/coco_panoptic_dinov3_vitl_640.py --workdir=runs/dinov3_vitl \
      --config.init.backbone=facebook/dinov3-vitl16-pretrain-lvd1689m

Published: 56.8 PQ (model_zoo/dinov3.md of tue-mps/eomt; DINOv3). Hardware and hours:
not published. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_dinov3_config()
    config.model.variant = "dinov3_large"
    config.optimizer.undecayed_blocks = 4
    config.annealing.first_block_end = 3000
    return config
