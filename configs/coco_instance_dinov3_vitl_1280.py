"""EoMT-L on DINOv3, COCO instance, 1280 px, 12 epochs.

  python train.py --config=configs/coco_instance_dinov3_vitl_1280.py --workdir=runs/dinov3_instance_1280 \
      --config.init.backbone=facebook/dinov3-vitl16-pretrain-lvd1689m

Published: 49.9 AP (model_zoo/dinov3.md of tue-mps/eomt; DINOv3). Hardware and hours:
not published. Four times the patches of 640 px: remat is on, at about a third more
time, so that the activations fit. Not yet trained in full with this code.
"""

import ml_collections

from configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_dinov3_config()
    config.image_size = 1280
    config.dataset.name = "coco_instance"
    config.model.variant = "dinov3_large"
    config.model.remat = True
    config.optimizer.undecayed_blocks = 4
    # Twelve epochs of the 117,266 photographs with objects.
    config.optimizer.published_steps = 87_948
    # The release anneals by the lists of COCO panoptic, the first block like the others.
    config.annealing.length = 88_692 / 87_948
    return config
