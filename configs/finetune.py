"""Your own photographs: a few hundred of them, one GPU. docs/own_data.md walks through it.

  python train.py --config=configs/finetune.py --workdir=runs/mine \
      --config.dataset.name=mine --config.model.variant=base \
      --config.init.checkpoint=tue-mps/coco_panoptic_eomt_base_640_2x

Any prepared dataset will do, of any of the three tasks. It starts from a whole EoMT, as
above, or from a backbone alone: `--config.init.backbone=dinov2_vitb14_reg4_pretrain.pth`.
`model.variant` says the size of either, `dinov3_base` for one with DINOv3.

What differs from the published recipes: 2,000 steps of 8 images, with warm-ups to match.
Set `total_steps` to what you can afford: mask annealing follows, and warm-ups get
shorter in a shorter run. Photographs shrink to a half at most, not to a tenth, and their
colours are jittered.
The checkpoint of the best evaluation is kept beside the newest, and the folder of the
run stands for it; `--config.eval.patience=3` stops after three evaluations in a row that
are no better.
`--config.optimizer.frozen_blocks=6` keeps the embeddings and the first 6 blocks of the ViT
as they are, -1 all of it: quicker, smaller, and with very few photographs often better.

Score, hardware and hours are your data's. As compiled, not measured, base at 640 px with 8
images fits a GPU of 16 GB, and large one of 40 GB or, with remat, of 16 (docs/gpus.md).
`--dry_run` says what the step needs.
"""

import ml_collections

from eomt_jax.own_data import recipe


def get_config() -> ml_collections.ConfigDict:
    return recipe.finetune_config()
