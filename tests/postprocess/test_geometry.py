import jax
import jax.numpy as jnp
import numpy as np

from eomt_jax.postprocess import geometry


def test_restore_matrices_other_original_size_does_not_recompile():
    traces = 0

    @jax.jit
    def rows(content_size, original_size):
        nonlocal traces
        traces += 1
        return geometry.restore_matrices(
            content_size,
            original_size,
            logits_size=(4, 4),
            image_size=(16, 16),
            canvas_size=(30, 30),
        ).rows

    first = rows(jnp.array([16, 8]), jnp.array([30, 15]))
    second = rows(jnp.array([8, 16]), jnp.array([7, 14]))
    assert traces == 1
    assert np.abs(first - second).max() > 0.1


def test_restore_matrices_padding_has_no_influence():
    masks = np.zeros((1, 4, 4), np.float32)
    masks[:, :, 2:] = 100.0  # right half: padding
    restore = geometry.restore_matrices(
        jnp.array([16, 6]),  # far enough from the half for the first resize
        jnp.array([16, 6]),
        logits_size=(4, 4),
        image_size=(16, 16),
        canvas_size=(16, 16),
    )
    restored = geometry.restore_masks(jnp.array(masks), restore)
    np.testing.assert_array_equal(restored[0, :, :6], 0.0)


def test_fold_blocks_restores_the_photograph_and_no_more(monkeypatch):
    monkeypatch.setattr(geometry, "BLOCK_SIZE", (8, 16))
    canvas = (30, 45)
    (height, width), padded = geometry.block_grid(canvas)
    assert (height, width) == (8, 16) and padded == (32, 48)

    @jax.jit
    def restore_both(masks, original_size):
        restore = geometry.restore_matrices(
            jnp.array([16, 12]),
            original_size,
            logits_size=(4, 4),
            image_size=(16, 16),
            canvas_size=canvas,
        )

        def place(sums, block):
            logits, inside, count = sums
            corner = block.top, block.left
            logits = jax.lax.dynamic_update_slice(
                logits, block.logits.swapaxes(0, 1), (0, *corner)
            )
            inside = jax.lax.dynamic_update_slice(inside, block.inside, corner)
            return logits, inside, count + 1

        initial = jnp.zeros((3, *padded)), jnp.zeros(padded, bool), 0
        folded = geometry.fold_blocks(place, initial, masks, restore)
        return folded, geometry.restore_masks(masks, restore)

    masks = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    for rows, columns in [(30, 45), (8, 45), (30, 9), (1, 1)]:
        (logits, inside, count), whole = restore_both(masks, jnp.array([rows, columns]))
        expected = np.zeros(padded, bool)
        expected[:rows, :columns] = True
        np.testing.assert_array_equal(inside, expected)
        np.testing.assert_allclose(
            logits[:, :rows, :columns], whole[:, :rows, :columns], atol=1e-6
        )
        assert count == -(-rows // 8) * -(-columns // 16)
