"""EoMT-L, COCO instance, 640 px, 12 epochs.

  python train.py --config=configs/coco_instance_vitl_640.py --workdir=runs/instance \
      --config.init.backbone=dinov2_vitl14_reg4_pretrain.pth

Published: 45.2 AP by pycocotools (arXiv 2503.19108; DINOv2 with registers). Hardware and
hours: not published. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.dataset.name = "coco_instance"
    config.model.variant = "large"
    # Twelve epochs of the 117,266 photographs with objects.
    config.optimizer.published_steps = 87_948
    # The release anneals by the lists of COCO panoptic.
    config.annealing.length = 88_692 / 87_948
    return config
