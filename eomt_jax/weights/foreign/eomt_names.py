"""Names of an EoMT's parameters in other libraries.

The release stores its network beside the criterion. It has timm's names for the ViT,
and partly transformers' names for DINOv3. transformers has a class for each of the two
ViTs.
"""

import dataclasses
import functools

from eomt_jax.weights.foreign.layouts import POSITIONS_WITHOUT_BATCH
from eomt_jax.weights.foreign.name_maps import (
    GATED,
    PACKED,
    TIMM,
    Names,
    Naming,
    dinov3_vit,
    layer_rows,
    prefixed,
    transformers_vit,
)

_BACKBONE = "network.encoder.backbone."
PIXEL_STD = "network.encoder.pixel_std"


def _with_heads(
    vit: Naming,
    *,
    queries: str,
    class_head: str,
    mask_head: tuple[str, str, str],
    upscale: str,
    upscale_norm: str,
    mask_probs: str,
    ignored: tuple[str, ...],
) -> Naming:
    """Returns the naming of an EoMT; `upscale` is the prefix of upscaling block i."""
    heads: dict[str, Names] = {"class_head": class_head}
    heads |= {f"mask_head/layer_{i}": name for i, name in enumerate(mask_head)}
    blocks = {"transposed": f"{upscale}.conv1", "norm": f"{upscale}.{upscale_norm}"}
    return dataclasses.replace(
        vit,
        heads={"queries": f"{queries}.weight", **layer_rows(heads)},
        upscale={
            **layer_rows(blocks),
            "depthwise/kernel": f"{upscale}.conv2.weight",
        },
        mask_probs=mask_probs,
        ignored=(*vit.ignored, *ignored),
    )


_release = functools.partial(
    _with_heads,
    queries="network.q",
    class_head="network.class_head",
    mask_head=("network.mask_head.0", "network.mask_head.2", "network.mask_head.4"),
    upscale="network.upscale.{i}",
    upscale_norm="norm",
    mask_probs="network.attn_mask_probs",
    ignored=("network.encoder.pixel_mean", PIXEL_STD, "criterion.empty_weight"),
)
RELEASE = _release(
    dataclasses.replace(
        TIMM,
        title="EoMT as its authors publish it",
        stem=prefixed(_BACKBONE, TIMM.stem),
        block=prefixed(_BACKBONE, TIMM.block),
        feed_forward={
            kind: prefixed(_BACKBONE, rows) for kind, rows in TIMM.feed_forward.items()
        },
    )
)
RELEASE_DINOV3 = _release(
    dinov3_vit(
        "EoMT with DINOv3 as its authors publish it",
        layer=f"{_BACKBONE}blocks.{{i}}",
        embeddings=f"{_BACKBONE}patch_embed",
        patches=f"{_BACKBONE}patch_embed.patch_embeddings",
        norm=f"{_BACKBONE}norm",
    )
)

_transformers = functools.partial(
    _with_heads,
    queries="query",
    class_head="class_predictor",
    mask_head=("mask_head.fc1", "mask_head.fc2", "mask_head.fc3"),
    upscale="upscale_block.block.{i}",
    upscale_norm="layernorm2d",
    mask_probs="attn_mask_probs",
    ignored=("criterion.empty_weight", "embeddings.position_ids"),
)
_dinov2_vit = functools.partial(
    transformers_vit,
    layer="layers.{i}",
    attention=tuple(f"attention.{x}_proj" for x in ("q", "k", "v", "out")),
    gelu=("fc1", "fc2"),
    patches="embeddings.patch_embeddings.projection",
    positions="embeddings.position_embeddings.weight",
    norm="layernorm",
    class_position=(False, False),
    model_types=("eomt",),
    layouts={"vit/position_embedding": POSITIONS_WITHOUT_BATCH},
)
HUGGING_FACE_EOMT = _transformers(
    _dinov2_vit("EoMT as transformers 5 writes it", swiglu=GATED)
)
# transformers 4 differs in a giant's feed-forward.
HUGGING_FACE_EOMT_4 = _transformers(
    _dinov2_vit("EoMT as transformers 4 writes it", swiglu=PACKED)
)
HUGGING_FACE_EOMT_DINOV3 = _transformers(
    dinov3_vit(
        "EoMT with DINOv3 as transformers writes it",
        layer="layers.{i}",
        norm="layernorm",
        model_types=("eomt_dinov3",),
    )
)
EOMTS = (
    RELEASE,
    RELEASE_DINOV3,
    HUGGING_FACE_EOMT,
    HUGGING_FACE_EOMT_4,
    HUGGING_FACE_EOMT_DINOV3,
)
