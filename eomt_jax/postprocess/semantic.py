"""Semantic post-processing: from windows' logits to one class a pixel.

Legend: B batch, N windows, Q queries, K classes, S side of a window, h4 w4 the mask
logits' size, L columns of the resized photograph laid on its side, Hc Wc canvas.
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from eomt_jax.ops.resize import interpolation_positions
from eomt_jax.pipeline.transforms import num_windows, window_start
from eomt_jax.postprocess.confidence import pixel_confidence
from eomt_jax.types import Array

STRIP_ROWS = 32
"""Rows of the resized photograph whose class scores exist at a time."""

BLOCK_SIZE = (32, 512)
"""Canvas rows and columns that are filled at a time."""


@flax.struct.dataclass
class SemanticPrediction:
    """The class of each pixel.

    Attributes:
      label_map: 0 to K - 1 inside the photograph, -1 past its own size on the canvas.
      confidence: 0 to 1, see confidence.pixel_confidence; 0 past the photograph's own
        size. None where nobody asked for it.
    """

    label_map: Int[Array, "*B Hc Wc"]
    confidence: Float[Array, "*B Hc Wc"] | None = None


def semantic_segmentation(
    mask_logits: Float[Array, "N Q h4 w4"],
    class_logits: Float[Array, "N Q K1"],
    content_size: Int[Array, " 2"],
    original_size: Int[Array, " 2"],
    *,
    image_size: int,
    canvas_size: tuple[int, int],
    confidence: str = "",
) -> SemanticPrediction:
    """Returns the classes of one image, at the photograph's size.

    In each window a class scores Σ_q σ(mask_q) · probability_q(class), "no object" left
    out of the classes but not of the softmax. Scores are averaged where windows
    overlap and resized to the photograph; the largest wins, the first class of equal
    ones. (Release: tue-mps/eomt@7bd19dd, to_per_pixel_logits_semantic and
    revert_window_logits_semantic.)

    The scores of all classes at the photograph's size would take gigabytes: strips of
    the resized photograph are scored one by one, and the canvas rows that they reach
    filled. Time follows the photograph's own size and number of windows.

    Args:
      mask_logits: of each window; those past the photograph's last are not looked at.
      class_logits: of each window; the last class is "no object".
      content_size: (height, width) of the resized photograph; its short side is S.
      original_size: (height, width) of the photograph.
      image_size: S.
      canvas_size: (height, width) of the result.
      confidence: kind of confidence that is wanted too, see confidence.KINDS.
    """
    # Everything happens on the photograph's side: its short side becomes the rows.
    upright = original_size[0] > original_size[1]
    mask_logits = jnp.where(upright, mask_logits.swapaxes(2, 3), mask_logits)
    short, long = jnp.sort(original_size)
    canvas_short, canvas_long = sorted(canvas_size)
    num_labels = class_logits.shape[-1]
    probs = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)
    scores = _WindowScores(
        jnp.moveaxis(mask_logits, 1, -1), probs[..., : num_labels - 1], image_size
    )
    maps = _fill_canvas(
        scores,
        resize_taps(image_size, short, canvas_short),
        _window_taps(content_size.max(), long, canvas_long, size=image_size),
        num_windows=num_windows(content_size.max(), image_size),
        original_size=(short, long),
        confidence=confidence,
    )
    height, width = canvas_size
    inside = (jnp.arange(height)[:, None] < original_size[0]) & (
        jnp.arange(width) < original_size[1]
    )

    def on_canvas(values: Array, outside: float) -> Array:
        # A photograph on its side may be wider than the canvas; upright it fits.
        square = jnp.pad(values, ((0, canvas_long - canvas_short), (0, 0)))
        square = jnp.where(upright, square.T, square)
        return jnp.where(inside, square[:height, :width], outside)

    return SemanticPrediction(*map(on_canvas, maps, (-1, 0.0)))


class Taps(NamedTuple):
    """The input pixels that those of one axis of the canvas come from.

    Attributes:
      source: input pixels that a canvas pixel mixes.
      weight: their shares, adding up to 1.
    """

    source: Int[Array, "canvas taps"]
    weight: Float[Array, "canvas taps"]


class _WindowScores(NamedTuple):
    """Class scores of windows, made for a few rows at a time.

    Attributes:
      mask_logits: queries last.
      probs: of each query's classes.
      size: S.
    """

    mask_logits: Float[Array, "N h4 w4 Q"]
    probs: Float[Array, "N Q K"]
    size: int

    def strip(
        self, top: Int[Array, ""], num_rows: int, num_windows: Int[Array, ""]
    ) -> Float[Array, "R NS K"]:
        """Returns all windows' rows from `top` on, side by side; past S the last."""
        max_windows, height, width, _ = self.mask_logits.shape
        rows = jnp.minimum(top + jnp.arange(num_rows), self.size - 1)
        rows = Taps(*(x[rows] for x in resize_taps(height, self.size, self.size)))
        columns = resize_taps(width, self.size, self.size)

        def add_window(j: Array, scores: Array) -> Array:
            logits = mix_columns(mix_rows(self.mask_logits[j], rows), columns)
            window = jnp.einsum(
                "RSq,qk->RSk",
                jax.nn.sigmoid(logits),
                self.probs[j],
                precision=jax.lax.Precision.HIGHEST,
            )
            return jax.lax.dynamic_update_slice(scores, window, (0, j * self.size, 0))

        shape = (num_rows, max_windows * self.size, self.probs.shape[-1])
        return jax.lax.fori_loop(0, num_windows, add_window, jnp.zeros(shape))


def resize_taps(
    in_size: Int[Array, ""] | int, out_size: Int[Array, ""] | int, canvas: int
) -> Taps:
    """Returns the taps of a bilinear resize; past out_size they repeat the border."""
    lower, upper, weight = interpolation_positions(in_size, out_size, num_rows=canvas)
    return Taps(
        jnp.stack([lower, upper], axis=1), jnp.stack([1 - weight, weight], axis=1)
    )


def _window_taps(
    in_size: Int[Array, ""], out_size: Int[Array, ""], canvas: int, *, size: int
) -> Taps:
    """Returns taps as resize_taps does, into windows that lie side by side.

    A column of the resized photograph lies in two windows at most, as the second next
    begins behind a window's end; where it lies in one, that one counts twice by half.
    """
    pixel, weight = resize_taps(in_size, out_size, canvas)
    start = functools.partial(window_start, long_side=in_size, size=size)
    # The last window that begins at or before the pixel: windows overlap by less than
    # one of them in all, so it is the one that it would be without overlap or the next.
    last = pixel // size
    following = jnp.minimum(last + 1, num_windows(in_size, size) - 1)
    last = jnp.where(start(following) <= pixel, following, last)
    before = jnp.maximum(last - 1, 0)
    before = jnp.where(pixel - start(before) < size, before, last)
    windows = jnp.stack([before, last], axis=-1)
    source = windows * size + pixel[..., None] - start(windows)
    shares = jnp.broadcast_to(weight[..., None] / 2, source.shape)
    return Taps(source.reshape(canvas, 4), shares.reshape(canvas, 4))


def _fill_canvas(
    scores: _WindowScores,
    rows: Taps,
    columns: Taps,
    *,
    num_windows: Int[Array, ""],
    original_size: tuple[Int[Array, ""], Int[Array, ""]],
    confidence: str,
) -> tuple[Array, ...]:
    """Returns the best class of each canvas pixel, and its confidence if it is wanted.

    The maps are [short, long]; past original_size they hold anything.
    """
    canvas_size = len(rows.source), len(columns.source)
    height, width = (min(most, n) for most, n in zip(BLOCK_SIZE, canvas_size))
    # Rows that don't lie in the photograph belong to no strip.
    y = jnp.arange(canvas_size[0])
    first_source = jnp.where(y < original_size[0], rows.source[:, 0], scores.size)
    num_columns = -(-original_size[1] // width)
    # A block that would end past the last row or column reads and writes padding.
    rows = _pad_taps(rows, height)
    columns = _pad_taps(columns, width)

    def fill_strip(i: Array, maps: tuple[Array, ...]) -> tuple[Array, ...]:
        top = i * STRIP_ROWS
        begin = jnp.sum(first_source < top)
        end = jnp.sum(first_source < jnp.minimum(top + STRIP_ROWS, scores.size))
        strip = scores.strip(top, STRIP_ROWS + 1, num_windows)

        def fill_columns(k: Array, maps: tuple[Array, ...]) -> tuple[Array, ...]:
            left = k * width
            part = mix_columns(strip, slice_taps(columns, left, width))

            def fill_block(b: Array, maps: tuple[Array, ...]) -> tuple[Array, ...]:
                y = begin + b * height
                source, weight = slice_taps(rows, y, height)
                source = jnp.clip(source - top, 0, STRIP_ROWS)
                block = mix_rows(part, Taps(source, weight))
                return update_maps(maps, block, confidence, place=(y, left))

            return jax.lax.fori_loop(0, -(-(end - begin) // height), fill_block, maps)

        return jax.lax.fori_loop(0, num_columns, fill_columns, maps)

    # Rows that a block fills past its strip's end are filled again by the next strip.
    empty = empty_maps((len(rows.source), len(columns.source)), confidence)
    num_strips = -(-scores.size // STRIP_ROWS)
    maps = jax.lax.fori_loop(0, num_strips, fill_strip, empty)
    return tuple(values[: canvas_size[0], : canvas_size[1]] for values in maps)


def empty_maps(size: tuple[int, ...], confidence: str) -> tuple[Array, ...]:
    """Returns a map of classes and, if a kind of confidence is wanted, one of it."""
    dtypes = [jnp.int32, *[jnp.float32] * bool(confidence)]
    return tuple(jnp.zeros(size, dtype) for dtype in dtypes)


def update_maps(
    maps: tuple[Array, ...],
    scores: Float[Array, "h w K"],
    confidence: str,
    *,
    place: tuple[Any, Any],
) -> tuple[Array, ...]:
    """Returns the maps of `empty_maps` with a block at (row, column) filled."""
    values = [best_class(scores)]
    if confidence:
        values.append(pixel_confidence(scores, confidence))
    update = jax.lax.dynamic_update_slice
    return tuple(update(one, block, place) for one, block in zip(maps, values))


def best_class(scores: Float[Array, "h w K"]) -> Int[Array, "h w"]:
    """Returns the argmax over classes, computed by two plain reductions.

    XLA's own argmax takes four times as long on a CPU. The barrier makes both see the
    same bits, whatever is fused with what.
    """
    scores = jax.lax.optimization_barrier(scores)
    num_classes = scores.shape[-1]
    best = scores == scores.max(axis=-1, keepdims=True)
    return jnp.where(best, jnp.arange(num_classes), num_classes - 1).min(axis=-1)


def mix_rows(x: Float[Array, "h w C"], taps: Taps) -> Float[Array, "H w C"]:
    """Mixes input rows to output rows."""
    num_taps = taps.source.shape[1]
    rows = [
        x[taps.source[:, t]] * taps.weight[:, t, None, None] for t in range(num_taps)
    ]
    return jnp.asarray(sum(rows))


def mix_columns(x: Float[Array, "h w C"], taps: Taps) -> Float[Array, "h W C"]:
    """Mixes input columns to output columns."""
    num_taps = taps.source.shape[1]
    columns = [
        x[:, taps.source[:, t]] * taps.weight[:, t, None] for t in range(num_taps)
    ]
    return jnp.asarray(sum(columns))


def _pad_taps(taps: Taps, count: int) -> Taps:
    padding = ((0, count), (0, 0))
    return Taps(jnp.pad(taps.source, padding), jnp.pad(taps.weight, padding))


def slice_taps(taps: Taps, start: Int[Array, ""], count: int) -> Taps:
    """Returns the taps of `count` canvas pixels from `start` on."""
    return Taps(*(jax.lax.dynamic_slice_in_dim(x, start, count) for x in taps))
