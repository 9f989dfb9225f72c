"""EoMT-L, COCO panoptic, 640 px, 12 epochs.

  python train.py --config=configs/coco_panoptic_vitl_640.py --workdir=runs/vitl \
      --config.init.backbone=dinov2_vitl14_reg4_pretrain.pth

Published: 56.0 PQ (arXiv 2503.19108; DINOv2 with registers), about 6 hours on 4 H100 with
26 GB used on each, about 16 images a second on each. Not yet trained in full with this
code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.model.variant = "large"
    return config
