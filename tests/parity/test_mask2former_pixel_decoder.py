"""The pixel decoder and its parts compute the same numbers as transformers."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import jax
from transformers import Mask2FormerConfig
from transformers.models.mask2former import modeling_mask2former as theirs

from eomt_jax.models.mask2former.deformable_attention import (
    DeformableAttention,
    deformable_attention,
    pixel_centers,
)
from eomt_jax.models.mask2former.pixel_decoder import PixelDecoder
from eomt_jax.models.mask2former.positions import sine_positions
from eomt_jax.parallel.platform import Platform, tracing_for

pytestmark = pytest.mark.parity

SIZES = ((2, 3), (4, 6), (8, 12))


def assert_close(found, wanted, tolerance=1e-5):
    """Compares two arrays to a tolerance relative to the largest value."""
    wanted = wanted.detach().numpy() if torch.is_tensor(wanted) else wanted
    assert found.shape == wanted.shape
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * largest)


def randomize(module, seed=0):
    """Gives every parameter random values; some are 0 or 1 in a fresh module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 1 if name.endswith("sampling_offsets.bias") else 0.3
            parameter.copy_(
                scale * torch.randn(parameter.shape, generator=generator)
                + (parameter.dim() == 1 and "norm" in name)
            )


def dense(linear):
    """Returns a layer's parameters with the values of a torch Linear or Conv2d."""
    weight = linear.weight.detach().numpy()
    if weight.shape[2:] == (1, 1):
        weight = weight[:, :, 0, 0]
    kernel = weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
    if linear.bias is None:
        return {"kernel": kernel}
    return {"kernel": kernel, "bias": linear.bias.detach().numpy()}


def norm(module):
    return {
        "scale": module.weight.detach().numpy(),
        "bias": module.bias.detach().numpy(),
    }


def attention_params(module):
    return {
        "offsets": dense(module.sampling_offsets),
        "weights": dense(module.attention_weights),
        "value": dense(module.value_proj),
        "out": dense(module.output_proj),
    }


def pixel_decoder_params(module):
    params = {
        "level_embedding": module.level_embed.detach().numpy(),
        "lateral": dense(module.adapter_1[0]),
        "lateral_norm": norm(module.adapter_1[1]),
        "smoothing": dense(module.layer_1[0]),
        "smoothing_norm": norm(module.layer_1[1]),
        "mask_projection": dense(module.mask_projection),
    }
    for i, (projection, group_norm) in enumerate(module.input_projections):
        params[f"projection_{i}"] = dense(projection)
        params[f"projection_{i}_norm"] = norm(group_norm)
    for i, layer in enumerate(module.encoder.layers):
        params[f"layer_{i}"] = {
            "deformable": attention_params(layer.self_attn),
            "norm1": norm(layer.self_attn_layer_norm),
            "mlp": {"up": dense(layer.fc1), "down": dense(layer.fc2)},
            "norm2": norm(layer.final_layer_norm),
        }
    return params


def gradients_as_values(module):
    """Returns the module with each parameter replaced by its gradient."""
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    return module


def tensors(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def to_nhwc(maps):
    return np.moveaxis(maps, 1, -1)


def normal(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", [(5, 5), (3, 8)])
def test_sine_positions(size):
    module = theirs.Mask2FormerSinePositionEmbedding(8, normalize=True)
    wanted = module((1, 16, *size), "cpu", torch.float32)[0].permute(1, 2, 0)
    assert_close(sine_positions(size, 16), wanted, 1e-6)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_sampling_values_and_gradients(platform):
    """Nearly half of the points lie outside the maps."""
    values = normal((2, 126, 4, 8), 0)
    locations = 0.5 + 0.7 * normal((2, 7, 4, 3, 5, 2), 1)
    weights = normal((2, 7, 4, 3, 5), 2)
    inputs = tensors(values, locations, weights)
    wanted = theirs.multi_scale_deformable_attention(
        inputs[0], SIZES, inputs[1], inputs[2]
    ).reshape(2, 7, 4, 8)
    gradient = normal((2, 7, 4, 8), 3)
    wanted.backward(torch.tensor(gradient))

    @jax.jit
    def run(*arrays):
        out, pull = jax.vjp(
            lambda *arrays: deformable_attention(*arrays, SIZES), *arrays
        )
        return out, pull(gradient)

    with tracing_for(Platform(platform)):
        found, gradients = run(values, locations, weights)
    assert_close(found, wanted)
    for of_ours, theirs_ in zip(gradients, inputs, strict=True):
        assert_close(of_ours, theirs_.grad)


def test_attention_layer_values_and_gradients():
    module = theirs.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention(
        embed_dim=32, num_heads=4, n_levels=3, n_points=4
    )
    randomize(module)
    query, features = normal((2, 35, 32), 0), normal((2, 126, 32), 1)
    inputs = tensors(query, features)
    points = pixel_centers((5, 7))
    wanted, _ = module(
        inputs[0],
        encoder_hidden_states=inputs[1],
        reference_points=torch.tensor(np.array(points))[None, :, None].expand(
            2, 35, 3, 2
        ),
        spatial_shapes_list=SIZES,
    )
    gradient = normal((2, 35, 32), 2)
    wanted.backward(torch.tensor(gradient))
    layer = DeformableAttention(4)

    @jax.jit
    def run(params, query, features):
        out, pull = jax.vjp(
            lambda params, query, features: layer.apply(
                {"params": params},
                query,
                features,
                reference_points=points,
                level_sizes=SIZES,
            ),
            params,
            query,
            features,
        )
        return out, pull(gradient)

    found, gradients = run(attention_params(module), query, features)
    assert_close(found, wanted)
    for of_ours, theirs_ in zip(gradients[1:], inputs, strict=True):
        assert_close(of_ours, theirs_.grad)
    wanted = attention_params(gradients_as_values(module))
    jax.tree.map(assert_close, gradients[0], wanted)


@pytest.mark.parametrize("size", [(2, 2), (2, 3)])
def test_pixel_decoder_values_and_gradients(size):
    module = theirs.Mask2FormerPixelDecoder(
        Mask2FormerConfig(
            feature_size=64,
            mask_feature_size=64,
            encoder_layers=2,
            encoder_feedforward_dim=96,
            num_attention_heads=8,
            dropout=0.0,
        ),
        [48] * 4,
    )
    randomize(module)
    rows, columns = size
    maps = [
        normal((2, 48, scale * rows, scale * columns), scale) for scale in (8, 4, 2, 1)
    ]
    inputs = tensors(*maps)
    outputs = module(inputs, return_dict=True)
    wanted = [*outputs.multi_scale_features, outputs.mask_features]
    weights = [normal(tuple(out.shape), i) for i, out in enumerate(wanted)]
    sum((out * torch.tensor(w)).sum() for out, w in zip(wanted, weights)).backward()
    model = PixelDecoder(64, num_heads=8, mlp_dim=96, num_layers=2, remat=True)

    @jax.jit
    def run(params, maps):
        def apply(params, maps):
            levels, features = model.apply({"params": params}, maps)
            return [*levels, features]

        found, pull = jax.vjp(apply, params, maps)
        return found, pull([to_nhwc(weight) for weight in weights])

    found, (of_params, of_maps) = run(
        pixel_decoder_params(module), tuple(to_nhwc(array) for array in maps)
    )
    for ours, out in zip(found, wanted, strict=True):
        assert_close(ours, to_nhwc(out.detach().numpy()))
    for ours, array in zip(of_maps, inputs, strict=True):
        assert_close(ours, to_nhwc(array.grad.numpy()))
    wanted = pixel_decoder_params(gradients_as_values(module))
    jax.tree.map(assert_close, of_params, wanted)
