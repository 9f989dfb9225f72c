"""EoMT-B, COCO panoptic, 640 px, 24 epochs ("2x").

  python train.py --config=configs/coco_panoptic_vitb_640_2x.py --workdir=runs/vitb \
      --config.init.backbone=dinov2_vitb14_reg4_pretrain.pth

Published: 51.6 PQ (arXiv 2503.19108; DINOv2 with registers). Hardware and hours: not
published. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.epochs = 24
    config.model.variant = "base"
    config.optimizer.published_steps = 177_384
    return config
