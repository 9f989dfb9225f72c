"""EoMT-L, ADE20K panoptic, 640 px, 31 epochs.

  python train.py --config=configs/ade20k_vitl.py --workdir=runs/ade20k_vitl \
      --config.init.checkpoint=runs/vitl

Published: 50.6 PQ (arXiv 2503.19108), from an EoMT-L trained on COCO panoptic, here the
run of coco_panoptic_vitl_640.py; the class head is new, everything else is kept. The
published one is `tue-mps/coco_panoptic_eomt_large_640`.
`--config.init.backbone=dinov2_vitl14_reg4_pretrain.pth` starts from DINOv2 instead, of
which no score is published. Hardware and hours: not published. Not yet trained in full
with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.epochs = 31
    config.dataset.name = "ade20k_panoptic"
    config.augmentation.color_jitter = True
    config.model.variant = "large"
    config.optimizer.published_steps = 39_120
    # The release's lists are of this length; 31 epochs of 1,263 batches are 39,153.
    config.annealing.length = 39_120 / 39_153
    return config
