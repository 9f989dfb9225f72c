"""EoMT-B, COCO panoptic, 640 px, 12 epochs ("1x").

  python train.py --config=configs/coco_panoptic_vitb_640_1x.py --workdir=runs/vitb_1x \
      --config.init.backbone=dinov2_vitb14_reg4_pretrain.pth

Published: 50.6 PQ (model_zoo/dinov2.md of tue-mps/eomt at 48e71d0, in a row that is
commented out: there are no weights for it). Hardware and hours: not published. Not yet
trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.model.variant = "base"
    return config
