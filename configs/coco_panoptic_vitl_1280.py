"""EoMT-L, COCO panoptic, 1280 px, 12 epochs.

  python train.py --config=configs/coco_panoptic_vitl_1280.py --workdir=runs/vitl_1280 \
      --config.init.backbone=dinov2_vitl14_reg4_pretrain.pth

Published: 58.3 PQ (arXiv 2503.19108; DINOv2 with registers). Hardware and hours: not
published. Four times the patches of 640 px: remat is on, at about a third more time, so
that the activations fit. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.image_size = 1280
    config.model.variant = "large"
    config.model.remat = True
    return config
