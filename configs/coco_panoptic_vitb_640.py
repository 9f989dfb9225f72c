"""EoMT-B, COCO panoptic, 640 px, 24 epochs ("2x").

  python train.py --config=configs/coco_panoptic_vitb_640.py --workdir=runs/vitb \
      --config.init.backbone=dinov2_vitb14_reg4_pretrain.pth

Published: 51.6 PQ (arXiv 2503.19108; DINOv2 with registers). Not yet trained in full with
this code. Hardware and hours: not published for this size.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.model.variant = "base"
    config.epochs = 24
    return config
