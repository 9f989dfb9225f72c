"""transformers loads the folders that we write, with the same results."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import jax
from PIL import Image

from eomt_jax.benchmark.torch_reference import pixel_values
from eomt_jax.dataset_info import published_info
from eomt_jax.weights.foreign import huggingface
from tests.weights.foreign.test_huggingface import NETWORKS, small_eomt

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("network", NETWORKS)
def test_transformers_loads_every_tensor_and_gives_our_logits(network, tmp_path):
    torch.set_num_threads(1)
    model, params = small_eomt(**NETWORKS[network])
    info = published_info("coco_instance")
    huggingface.save(
        tmp_path / "out", model, params, dataset_info=info, max_shard_bytes=90_000
    )
    rotary = model.vit.positions == "rotary"
    name = "EomtDinov3" if rotary else "Eomt"
    theirs, report = getattr(
        transformers, f"{name}ForUniversalSegmentation"
    ).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert not theirs.attn_mask_probs.any()
    assert theirs.config.id2label[79] == "toothbrush"
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    with torch.no_grad():
        outputs = theirs.eval()(pixel_values(images))
    ours = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(
        ours.mask_logits[0], outputs.masks_queries_logits, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        ours.class_logits[0], outputs.class_queries_logits, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "dataset, shape",
    [("coco_instance", (1, 3, 32, 32)), ("ade20k_semantic", (2, 3, 32, 32))],
)
def test_transformers_prepares_photographs_as_we_do(dataset, shape, tmp_path):
    """The photograph is twice as wide as high: it is padded, or cut into windows."""
    info = published_info(dataset)
    model, params = small_eomt(num_classes=info.num_classes)
    huggingface.save(tmp_path / "out", model, params, dataset_info=info)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    size = (32, 16) if info.task == "instance" else (64, 32)
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    inputs = processor(Image.fromarray(photograph), return_tensors="pt")
    if info.task == "instance":
        prepared = np.zeros((1, 32, 32, 3), np.uint8)
        prepared[0, :16] = photograph
    else:
        prepared = np.stack(np.split(photograph, 2, axis=1))
    found, wanted = inputs["pixel_values"], pixel_values(prepared)
    assert found.shape == wanted.shape == shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
