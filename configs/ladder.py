"""Recipes of the paper's steps from ViT-Adapter + Mask2Former down to EoMT.

  python train.py --config=configs/ladder.py:0_large --workdir=runs/0_large \
      --config.init.backbone=dinov2_vitl14_reg4_pretrain.pth

The name after the colon is a step, a size of the ViT and, if it isn't COCO panoptic, a
dataset. The steps are

  0  ViT-Adapter, pixel decoder, Mask2Former's decoder
  1  the ViT's tokens at four scales in place of the adapter
  2  without the pixel decoder
  3  the ViT's tokens at one scale
  4  EoMT with masked attention in training and inference
  5  EoMT, whose masked attention fades out

and steps 0 to 4 mask in training and inference, as in the paper. Published (arXiv
2503.19108, tables 1 to 6; DINOv2 with registers; PQ, AP for coco_instance, mIoU for the
semantic datasets):

  0_small 50.5   0_base 54.4   0_large 57.1   0_giant 57.7
  1_large 56.7   2_large 56.9  3_large 56.7
  4_small 46.1   4_base 51.5   4_large 56.2   4_giant 57.2
  5_small 44.7   5_base 50.6   5_large 56.0   5_giant 57.0
  0_large_coco_instance 47.6         0_large_ade20k 51.8 (from COCO panoptic's weights)
  0_large_ade20k_semantic 58.9       0_large_cityscapes 84.5

None has been trained in full with this code. docs/ladder.md has parameters, operations
and what was measured.
"""

import importlib

import ml_collections

from eomt_jax.models.ladder import STEPS

_SIZES = {
    "small": "coco_panoptic_vits_640_1x",
    "base": "coco_panoptic_vitb_640_1x",
    "large": "coco_panoptic_vitl_640",
    "giant": "coco_panoptic_vitg_640",
    "tiny": "quickstart",
}
_DATASETS = {
    "large_coco_instance": "coco_instance_vitl_640",
    "large_ade20k": "ade20k_vitl",
    "large_ade20k_semantic": "ade20k_semantic_vitl",
    "large_cityscapes": "cityscapes_semantic_vitl",
}

BASES = _SIZES | _DATASETS


def get_config(name: str = "0_large") -> ml_collections.ConfigDict:
    """Returns the recipe of a step, such as "0_large"."""
    number, _, base = name.partition("_")
    if number not in map(str, range(len(STEPS))) or base not in BASES:
        raise ValueError(
            f"configs/ladder.py:{name}: there are steps 0 to {len(STEPS) - 1}, each "
            f"followed by an underscore and one of {', '.join(BASES)}"
        )
    config = importlib.import_module(f"configs.{BASES[base]}").get_config()
    if base == "tiny":
        config.image_size = 128
        config.model.patch_size = 16  # Mask2Former's maps begin at 1/16.
    step = STEPS[int(number)]
    config.model.update(step.model)
    if step.is_masked:
        config.annealing.enabled = False
        config.annealing.if_disabled = "masked"
    return config
