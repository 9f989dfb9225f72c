"""EoMT-S on DINOv3, COCO panoptic, 640 px, 24 epochs ("2x").

  python train.py --config=configs/coco_panoptic_dinov3_vits_640_2x.py --workdir=runs/dinov3_vits \
      --config.init.backbone=facebook/dinov3-vits16-pretrain-lvd1689m

Published: 47.2 PQ (model_zoo/dinov3.md of tue-mps/eomt; DINOv3). Hardware and hours:
not published. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_dinov3_config()
    config.epochs = 24
    config.model.variant = "dinov3_small"
    config.optimizer.undecayed_blocks = 3
    config.optimizer.published_steps = 177_384
    config.annealing.first_block_end = 3000
    return config
