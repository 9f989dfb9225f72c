import numpy as np

from eomt_jax.pictures.explanation import draw_explanation

BLUE = np.array([[0, 0, 255]], np.uint8)


def draw(masks, attention=None, **options):
    num_layers = len(masks)
    options = {
        "layers": [f"layer {i}" for i in range(num_layers - 1)],
        "segments": [("cat", 0.9)],
        "queries": [7],
        "classes": [["cat"]] * num_layers,
        "scores": np.full((num_layers, 1), 0.9, np.float32),
        "colors": BLUE,
        **options,
    }
    height, width = masks.shape[2:]
    image = np.full((height, width, 3), (200, 120, 120), np.uint8)
    if attention is None:
        attention = masks[:0]
    return np.asarray(draw_explanation(image, masks, attention, **options))


def test_draw_explanation_masks_are_bright_with_a_line_around():
    masks = np.zeros((2, 1, 120, 240), np.float32)
    masks[1, 0, :, :120] = 1.0
    picture = draw(masks).astype(int)
    is_bright = (picture == (200, 120, 120)).all(-1)
    is_line = np.abs(picture - BLUE[0]).sum(-1) < 60
    rows, columns = is_line.nonzero()
    row, column = rows[len(rows) // 2], columns.min()
    # The mask is left of the line, and a cell has its image's size of 120 × 240 here.
    assert np.ptp(rows) >= 110 and np.ptp(columns) <= 3
    assert is_bright[row, column - 110 : column - 5].all()
    assert not is_bright[row, : column - 125].any()
    # A quarter of the light and no colour are left outside.
    luma = 0.299 * 200 + 0.587 * 120 + 0.114 * 120
    dark = picture[row, [column - 200, column + 40]]
    np.testing.assert_allclose(dark, luma / 4, atol=1.0)


def test_draw_explanation_attention_glows_between_two_masks():
    masks = np.zeros((2, 1, 120, 240), np.float32)
    attention = np.full((1, 1, 120, 240), 0.001, np.float32)
    attention[0, 0, :60] = 0.002
    picture = draw(masks, attention).astype(int)
    # The attention is relative to its largest value: all of the glow and half of it.
    glow = 0.4 * np.array([200, 120, 120]) + 0.6 * np.array([255, 150, 20])
    dark = (0.299 * 200 + 0.587 * 120 + 0.114 * 120) / 4
    rows, columns = (np.abs(picture - glow).max(-1) < 2).nonzero()
    assert (np.ptp(rows), np.ptp(columns)) == (59, 239)
    bottom, left = rows.max(), columns.min()
    half = picture[bottom + 30, left + 120]
    np.testing.assert_allclose(half, (glow + dark) / 2, atol=2.0)
    for beside in (left - 100, left + 340):
        np.testing.assert_allclose(picture[bottom, beside], dark, atol=1.0)


def test_draw_explanation_cuts_long_names():
    masks = np.zeros((1, 1, 24, 12), np.float32)
    short = draw(masks)
    long = draw(masks, segments=[("x" * 500, None)], classes=[["y" * 500]])
    assert long.shape == short.shape
    assert (long != short).any()
