"""Makes an SVG picture whose segments say their names where the pointer is.

Legend: H W pixels of the picture, h w of the grid.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from eomt_jax.pictures.outlines import outline_segments
from eomt_jax.pictures.overlays import fit_long_side
from eomt_jax.postprocess.segmentation import Segmentation

_LONG_SIDE = 320
"""Long side of the grid on which segments are found."""

_STYLE = (
    ".eomt path{fill:#fff;fill-opacity:0;pointer-events:all}"
    ".eomt g:hover path{fill-opacity:.4}"
    ".eomt text{visibility:hidden;pointer-events:none;fill:#fff;stroke:#000;"
    "stroke-width:.25em;paint-order:stroke;font:600 1em sans-serif}"
    ".eomt g:hover text{visibility:visible}"
)


def hover_picture(
    picture: UInt8[np.ndarray, "H W 3"],
    segmentation: Segmentation,
    texts: Sequence[str],
) -> str:
    """Returns an SVG element in which a segment is lit, and says a text, when hovered.

    It needs no script. Where segments overlap, the smaller one lies on top.

    Args:
      picture: RGB, in the photograph's proportions, such as its overlay.
      segmentation: of the photograph.
      texts: of each segment.
    """
    height, width = fit_long_side(picture.shape[:2], _LONG_SIDE)
    everything = np.arange(len(segmentation.labels))
    index = outline_segments(
        segmentation, everything, grid=(height, width), line_width=0.0
    ).index
    size = max(height, width) / 28
    groups = [
        f'<g><path d="{outline}"/><text x="{size / 2:.1f}" y="{1.2 * size:.1f}">'
        f"{html.escape(text)}</text></g>"
        for outline, text in zip(_paths(index, len(texts)), texts, strict=True)
    ]
    return (
        f'<svg class="eomt" viewBox="0 0 {width} {height}" font-size="{size:.1f}" '
        f'style="width:100%;max-height:80vh"><style>{_STYLE}</style>'
        f'<image width="{width}" height="{height}" href="{_data_url(picture)}"/>'
        f"{''.join(groups)}</svg>"
    )


def _paths(index: Integer[np.ndarray, "h w"], count: int) -> list[str]:
    """Returns each segment's path, a rectangle for each run of its pixels in a row."""
    _, width = index.shape
    is_start = np.ones(index.shape, bool)
    is_start[:, 1:] = index[:, 1:] != index[:, :-1]
    tops, lefts = np.nonzero(is_start)
    rights = np.append(lefts[1:], 0)
    rights[rights == 0] = width
    paths = [""] * count
    runs = zip(index[is_start].tolist(), tops, lefts, rights - lefts, strict=True)
    for segment, top, left, length in runs:
        if segment >= 0:
            paths[segment] += f"M{left} {top}h{length}v1h-{length}z"
    return paths


def _data_url(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
