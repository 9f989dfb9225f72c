"""The steps from ViT-Adapter + Mask2Former down to EoMT, as options of networks.

Source: arXiv 2503.19108, section 3 and tables 1, 3 and B. All numbers are for DINOv2 with
registers and COCO panoptic at 640 pixels: GFLOPs are multiply-adds, images a second were
measured on an H100 at batch 1 with torch.compile in half precision, PQ is of val2017.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Published:
    """The paper's numbers of a step.

    Attributes:
      params: parameters in millions.
      gflops: billions of multiply-adds for an image.
      images_per_second: speed of inference.
      pq: panoptic quality in percent.
    """

    params: int
    gflops: int
    images_per_second: int
    pq: float


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the ladder.

    Attributes:
      title: what the network consists of.
      model: the fields of config.model that differ from those of EoMT.
      is_masked: whether attention is masked in training and inference.
      published: numbers by the variant of the ViT.
    """

    title: str
    model: Mapping[str, str]
    is_masked: bool
    published: Mapping[str, Published]


def _mask2former(features: str) -> dict[str, str]:
    return {"name": "mask2former", "features": features, "inference": "masked"}


STEPS = (
    Step(
        "ViT-Adapter, pixel decoder, Mask2Former's decoder",
        _mask2former("adapter"),
        True,
        {
            "small": Published(47, 165, 33, 50.5),
            "base": Published(121, 347, 32, 54.4),
            "large": Published(349, 830, 29, 57.1),
            "giant": Published(1209, 2510, 20, 57.7),
        },
    ),
    Step(
        "four scales of the ViT's tokens in place of the adapter",
        _mask2former("pyramid"),
        True,
        # By the networks' other numbers, 740 would fit where the paper has 700.
        {"large": Published(342, 700, 36, 56.7)},
    ),
    Step(
        "without the pixel decoder",
        _mask2former("pyramid_only"),
        True,
        {"large": Published(337, 685, 61, 56.9)},
    ),
    Step(
        "one scale",
        _mask2former("single_scale"),
        True,
        {"large": Published(328, 673, 64, 56.7)},
    ),
    Step(
        "EoMT with masked attention",
        {"inference": "masked"},
        True,
        {
            "small": Published(24, 89, 108, 46.1),
            "base": Published(93, 286, 104, 51.5),
            "large": Published(316, 828, 61, 56.2),
            "giant": Published(1164, 2689, 35, 57.2),
        },
    ),
    Step(
        "EoMT",
        {},
        False,
        {
            "small": Published(24, 68, 330, 44.7),
            "base": Published(93, 216, 261, 50.6),
            "large": Published(316, 669, 128, 56.0),
            "giant": Published(1164, 2261, 55, 57.0),
        },
    ),
)
