"""Options of the training loss."""

import dataclasses

from eomt_jax.losses.matcher import MATCHERS
from eomt_jax.options import Choice, Flag, Real, Whole, option

_WEIGHT = Real(0.0, 1e6, above=True)


@dataclasses.dataclass(frozen=True)
class CriterionOptions:
    """Points, weights and matcher of the loss."""

    num_points: int = option(
        12_544,
        Whole(1, 2**20),
        "The loss samples this many points of each mask, matching of each image.",
    )
    oversample_ratio: float = option(
        3.0,
        Real(1.0, 1000.0),
        "The most uncertain points are chosen among num_points times this many.",
    )
    importance_ratio: float = option(
        0.75,
        Real(0.0, 1.0),
        "This share of the loss's points is chosen for being uncertain, the rest at "
        "random.",
    )
    mask_weight: float = option(
        5.0,
        _WEIGHT,
        "The cross-entropy of masks has this weight in loss and matching.",
    )
    dice_weight: float = option(
        5.0, _WEIGHT, "The dice loss of masks has this weight in loss and matching."
    )
    class_weight: float = option(
        2.0,
        _WEIGHT,
        "The cross-entropy of classes has this weight in the loss, and their "
        "probability in matching.",
    )
    no_object_weight: float = option(
        0.1, _WEIGHT, "Queries without a target have this weight in the class loss."
    )
    matcher: str = option(
        "scipy",
        Choice(tuple(MATCHERS)),
        "Queries are matched with targets by scipy on the host, or on the device.",
    )
    ignore_void: bool = option(
        False,
        Flag(),
        "Pixels of no segment and of crowds count neither as inside a mask nor as "
        "outside; the release counts them as outside.",
    )
