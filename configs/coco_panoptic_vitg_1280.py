"""EoMT-g, COCO panoptic, 1280 px, 12 epochs.

  python train.py --config=configs/coco_panoptic_vitg_1280.py --workdir=runs/vitg_1280 \
      --config.init.backbone=dinov2_vitg14_reg4_pretrain.pth

Published: 59.2 PQ (arXiv 2503.19108; DINOv2 with registers). Hardware and hours: not
published; as at 640 px (coco_panoptic_vitg_640.py), with four times the patches. Not yet
trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.image_size = 1280
    config.model.variant = "giant"
    config.model.remat = True
    return config
