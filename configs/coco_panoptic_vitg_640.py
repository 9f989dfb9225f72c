"""EoMT-g, COCO panoptic, 640 px, 12 epochs.

  python train.py --config=configs/coco_panoptic_vitg_640.py --workdir=runs/vitg \
      --config.init.backbone=dinov2_vitg14_reg4_pretrain.pth

Published: 57.0 PQ (arXiv 2503.19108; DINOv2 with registers). Hardware and hours: not
published; parameters, gradients and optimizer alone take 19 GB, and remat is on, at about
a third more time, so that the activations fit beside them. `--config.mesh.fsdp=4` spreads
the former over four chips. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.model.variant = "giant"
    config.model.remat = True
    return config
