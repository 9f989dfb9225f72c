"""The network of a config with its pre-trained weights, and a report of what is new."""

import dataclasses
import re
from typing import Any

import jax
from etils import epath

from eomt_jax.models import variants
from eomt_jax.models.eomt import EoMT
from eomt_jax.models.vit import ViT
from eomt_jax.training.state import param_shapes
from eomt_jax.weights.load import read_backbone
from eomt_jax.weights.resample import resample_vit

PyTree = Any

# What a backbone must share with the variant; registers follow the backbone.
VARIANT_FIELDS = ("embed_dim", "depth", "num_heads", "mlp_dim", "mlp_type")

# (beginning of the path, name in the report); the first that matches counts.
GROUPS = (
    (r"vit/patch_embedding", "vit patch embedding"),
    (r"vit/position_embedding", "vit position embedding"),
    (r"vit/(class_token|register_tokens)", "vit prefix tokens"),
    (r"vit/block_", "vit blocks"),
    (r"vit/norm", "vit final norm"),
    (r"queries", "queries"),
    (r"class_head", "class head"),
    (r"mask_head", "mask head"),
    (r"upscale", "upscale blocks"),
)


@dataclasses.dataclass(frozen=True)
class GroupReport:
    """Where one group's parameters come from, in numbers of parameters.

    Attributes:
      group: name of the group.
      loaded: taken from the file as they are.
      resampled: from the file, resized to another patch or image size.
      new: drawn at random.
    """

    group: str
    loaded: int = 0
    resampled: int = 0
    new: int = 0

    @property
    def total(self) -> int:
        return self.loaded + self.resampled + self.new


@dataclasses.dataclass(frozen=True)
class Initialization:
    """A network, and what of it is not drawn at random.

    Attributes:
      model: the network; without registers where the backbone has none.
      loaded: pre-trained parameters, for `state.create_state`; None without any.
      report: one row for each group of parameters.
    """

    model: EoMT
    loaded: PyTree | None
    report: tuple[GroupReport, ...]


def initialize(
    variant: str,
    *,
    num_classes: int,
    num_queries: int,
    image_size: tuple[int, int],
    patch_size: int = 16,
    dtype: str = "bfloat16",
    remat: bool = False,
    backbone: epath.PathLike = "",
) -> Initialization:
    """Builds an EoMT and reads its backbone.

    Args:
      variant: a key of `variants.VARIANTS`.
      num_classes: without "no object".
      num_queries: how many segments can be predicted.
      image_size: (height, width) in pixels.
      patch_size: in pixels.
      dtype: of activations.
      remat: recompute blocks in the backward pass.
      backbone: path of whatever `weights.load.read_backbone` reads; empty for none.

    Raises:
      ValueError: the backbone is of another variant, or cannot be read.
    """
    model = variants.create_eomt(
        variant,
        num_classes=num_classes,
        num_queries=num_queries,
        image_size=image_size,
        patch_size=patch_size,
        dtype=dtype,
        remat=remat,
    )
    loaded, resampled = None, set()
    if backbone:
        fields, params = read_backbone(backbone)
        _check_variant(variant, fields, backbone)
        stored = ViT(**{**fields, "image_size": tuple(fields["image_size"])})
        vit = stored.clone(
            image_size=model.vit.image_size,
            patch_size=patch_size,
            dtype=model.vit.dtype,
            remat=remat,
        )
        model = model.clone(vit=vit)
        params = resample_vit(params, grid_size=vit.grid_size, patch_size=patch_size)
        loaded = {"vit": params}
        if stored.patch_size != vit.patch_size:
            resampled.add("vit/patch_embedding/kernel")
        if stored.grid_size != vit.grid_size:
            resampled.add("vit/position_embedding")
    return Initialization(model, loaded, _report(model, loaded, resampled))


def format_report(report: tuple[GroupReport, ...]) -> str:
    """The report as an aligned table with a line of totals."""
    names = ("loaded", "resampled", "new", "total")
    sums = [sum(getattr(row, name) for row in report) for name in names]
    rows = [
        ["parameters", *names],
        *([row.group, *(f"{getattr(row, n):,}" for n in names)] for row in report),
        ["all", *(f"{total:,}" for total in sums)],
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    )


def _report(
    model: EoMT, loaded: PyTree | None, resampled: set[str]
) -> tuple[GroupReport, ...]:
    counts = {name: {} for _, name in GROUPS}
    given = _sizes(loaded or {})
    for path, size in _sizes(param_shapes(model)).items():
        name = next(name for pattern, name in GROUPS if re.match(pattern, path))
        kind = "new"
        if path in given:
            kind = "resampled" if path in resampled else "loaded"
        counts[name][kind] = counts[name].get(kind, 0) + size
    return tuple(GroupReport(name, **kinds) for name, kinds in counts.items())


def _sizes(tree: PyTree) -> dict[str, int]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _check_variant(variant: str, fields: dict[str, Any], path: epath.PathLike) -> None:
    found = {name: fields[name] for name in VARIANT_FIELDS}
    wanted = {name: getattr(variants.VARIANTS[variant], name) for name in found}
    if found == wanted:
        return
    differing = ", ".join(
        f"{name} {found[name]!r} instead of {wanted[name]!r}"
        for name in found
        if found[name] != wanted[name]
    )
    fitting = [
        name
        for name, sizes in variants.VARIANTS.items()
        if all(getattr(sizes, field) == value for field, value in found.items())
    ]
    advice = f"set model.variant = {fitting[0]!r}" if fitting else "no variant fits it"
    raise ValueError(
        f"init.backbone = {str(path)!r} is not a ViT of model.variant = {variant!r}: "
        f"it has {differing}; {advice}"
    )
