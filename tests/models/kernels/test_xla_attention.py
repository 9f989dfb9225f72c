"""Attention of many rows is computed in chunks, with the results of one piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eomt_jax.models.kernels import xla_attention as attention
from tests.models.dependencies import dependencies

NUM_TOKENS = 41


def random_inputs(num_rows):
    """Returns query, key, value and a mask that leaves each row a token."""
    keys = jax.random.split(jax.random.key(0), 4)
    query = jax.random.normal(keys[0], (2, num_rows, 3, 8))
    key, value = jax.random.normal(keys[1], (2, 2, NUM_TOKENS, 3, 8))
    mask = jax.random.bernoulli(keys[2], 0.5, (2, num_rows, NUM_TOKENS))
    return query, key, value, mask.at[:, :, 0].set(True)


def definition(query, key, value, mask=None):
    """Returns attention by its definition, in float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    logits = np.einsum("brnd,bknd->bnrk", query, key) / np.sqrt(8)
    if mask is not None:
        logits = np.where(np.asarray(mask)[:, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bnrk,bknd->brnd", weights, value)


def test_attention_equals_its_definition_in_float64():
    query, key, value, mask = random_inputs(37)
    found = attention.attend(query, key, value, mask)
    expected = definition(query, key, value, mask)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_backward_pass_keeps_two_numbers_a_row():
    query, key, value, mask = random_inputs(37)
    _, vjp = jax.vjp(lambda *heads: attention.attend(*heads, mask), query, key, value)
    kept = sum(x.size for x in jax.tree.leaves(vjp))
    out, rows = query.size, query.size // query.shape[-1]
    assert kept <= query.size + key.size + value.size + mask.size + out + 2 * rows


def test_compiled_backward_pass_computes_the_weights_again(optimized_programs):
    query, key, value, _ = random_inputs(37)

    def loss(*heads):
        return jnp.square(attention.attend(*heads)).sum()

    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    assert grad.lower(query, key, value).compile().as_text().count("exponential(") == 2


def test_sums_over_chunks_begin_when_the_gradient_is_there(monkeypatch):
    """Otherwise a TPU's compiler takes the memory of all blocks' sums at once."""
    monkeypatch.setattr(attention, "MAX_LOGITS", 8 * NUM_TOKENS)
    out, vjp = jax.vjp(attention.attend, *random_inputs(37))
    program = jax.make_jaxpr(vjp)(out)
    waits_for = dependencies(program)
    [loop] = [step for step in program.eqns if step.primitive.name == "scan"]
    # The rows come in chunks, so only keys, values and their sums have the keys' shape.
    shape = (2, 3, NUM_TOKENS, 8)
    whole = [value for value in loop.invars if value.aval.shape == shape]
    assert [waits_for(value) for value in whole].count({0}) == 2 and len(whole) == 4


def output_and_gradients(query, key, value, mask):
    """Returns [output, gradient of query, of key, of value] in float32."""

    def loss(query, key, value):
        out = attention.attend(query, key, value, mask)
        weights = jnp.sin(jnp.arange(out.size, dtype=jnp.float32))
        return (out.reshape(-1) * weights).sum(), out

    # Each call has a function of its own, since jit doesn't see a new MAX_LOGITS.
    grad = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    gradients, out = grad(query, key, value)
    return [np.asarray(x, np.float32) for x in (out, *gradients)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("max_logits", [8 * NUM_TOKENS, 20 * NUM_TOKENS, 1])
def test_chunks_change_neither_result_nor_gradients(monkeypatch, masked, max_logits):
    query, key, value, mask = random_inputs(37)
    mask = mask if masked else None
    expected = output_and_gradients(query, key, value, mask)
    monkeypatch.setattr(attention, "MAX_LOGITS", max_logits)
    found = output_and_gradients(query, key, value, mask)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(b).max())


def test_gradients_of_bfloat16_are_summed_over_chunks_in_float32(monkeypatch):
    """25 sums in bfloat16 would have 1.6 times the error of one piece."""
    *inputs, mask = random_inputs(200)
    exact = output_and_gradients(*inputs, mask)
    rounded = [x.astype(jnp.bfloat16) for x in inputs]
    whole = output_and_gradients(*rounded, mask)
    monkeypatch.setattr(attention, "MAX_LOGITS", 8 * NUM_TOKENS)
    chunks = output_and_gradients(*rounded, mask)
    for a, b, c in zip(exact[2:], whole[2:], chunks[2:], strict=True):
        assert np.abs(c - a).mean() < 1.3 * np.abs(b - a).mean()


@pytest.mark.parametrize("max_logits", [2**22, 8 * NUM_TOKENS])
@pytest.mark.parametrize("factor, shifts", [(1, 0), (7.9, 0), (8, 1), (1000, 1)])
def test_attention_on_a_cpu_takes_maxima_only_where_exponentials_would_overflow(
    monkeypatch, factor, shifts, max_logits
):
    """The keys' mean is 50 lengths away from 0, and has no effect."""
    query, key, value, _ = random_inputs(37)
    query, key = factor * query, key + 50.0
    expected = definition(query, key, value)
    monkeypatch.setattr(attention, "MAX_LOGITS", max_logits)
    found = attention.attend_on_cpu(query, key, value)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    calls = []
    monkeypatch.setattr(attention, "attend", lambda *heads: calls.append(1) or heads[0])
    with jax.disable_jit():
        attention.attend_on_cpu(query, key, value)
    assert len(calls) == shifts


@pytest.mark.parametrize("rows, chunk", [(1605, 1605), (4101, 824), (6405, 584)])
def test_rows_of_a_640_pixel_image_go_in_one_piece_and_larger_ones_in_chunks(
    optimized_programs, monkeypatch, rows, chunk
):
    """Rows of 640, 1024 and 1280 pixels with 200 queries take the memory of a chunk."""

    def memory(num_rows):
        query = jax.ShapeDtypeStruct((1, num_rows, 1, 64), jnp.bfloat16)
        key = jax.ShapeDtypeStruct((1, 200 + rows, 1, 64), jnp.bfloat16)
        # Each call has a function of its own, as above.
        program = jax.jit(lambda *heads: attention.attend(*heads))
        program = program.lower(query, key, key).compile()
        return program.memory_analysis().temp_size_in_bytes

    found = memory(rows)
    monkeypatch.setattr(attention, "MAX_LOGITS", 2**40)
    assert 1 <= found / memory(chunk) < 1.25
