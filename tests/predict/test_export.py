"""The exported program, run by the code of docs/export.md, gives the model's logits."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

from eomt_jax.models.variants import create_eomt
from eomt_jax.predict import export

ROOT = pathlib.Path(__file__).parents[2]
SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 48}


def small_eomt(variant="small", **fields):
    """Returns a network of two blocks, one with queries, for oblong images."""
    fields = {"image_size": (32, 48), **SIZES, **fields}
    model = create_eomt(
        variant, num_classes=4, num_queries=3, num_query_blocks=1, **fields
    )
    images = jax.ShapeDtypeStruct((1, *model.vit.image_size, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )
    return model, params


def some_images(number, size=(32, 48)):
    return np.random.default_rng(0).integers(0, 256, (number, *size, 3), np.uint8)


def reader():
    """Returns the first Python code after the heading in the document."""
    text = (ROOT / "docs/export.md").read_text()
    section = text[text.index("## A program for JAX") :]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_documented_reader_gives_the_models_logits_without_this_library(tmp_path):
    model, params = small_eomt()
    export.save_export(tmp_path / "exported", model, params)
    images = some_images(3)
    np.save(tmp_path / "images.npy", images)
    program = reader() + (
        'np.savez("logits.npz", masks=masks, classes=classes)\n'
        "import sys\n"
        'print({name.split(".")[0] for name in sys.modules} & {"eomt_jax", "flax"})\n'
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=tmp_path,
        env={"JAX_PLATFORMS": "cpu", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "set()\n"
    found = np.load(tmp_path / "logits.npz")
    wanted = jax.jit(model.apply)({"params": params}, images)
    for key, value in (("masks", wanted.mask_logits), ("classes", wanted.class_logits)):
        np.testing.assert_allclose(found[key], value[-1], rtol=0, atol=1e-5)


def test_one_program_takes_any_batch_on_any_platform():
    model, params = small_eomt("dinov3_small")
    exported = export.export_network(model)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    network = jax.export.deserialize(exported.serialize())
    weights = {
        jax.tree_util.keystr(path, simple=True, separator="/"): value
        for path, value in jax.tree.leaves_with_path(params)
    }
    images = some_images(2)
    wanted = jax.jit(model.apply)({"params": params}, images)
    for number in (1, 2):
        found = network.call(weights, images[:number])
        for name in ("mask_logits", "class_logits"):
            np.testing.assert_allclose(
                found[name], getattr(wanted, name)[-1][:number], rtol=0, atol=1e-5
            )


def test_description_says_what_goes_in_and_comes_out(tmp_path):
    model, params = small_eomt(dtype="bfloat16")
    export.save_export(
        tmp_path / "out", model, params, batch_size=2, platforms=["cuda"]
    )
    value = json.loads((tmp_path / "out" / export.INFO_FILE).read_text())
    assert value["platforms"] == ["cuda"]
    assert value["inputs"] == {"images": {"dtype": "uint8", "shape": [2, 32, 48, 3]}}
    assert value["outputs"] == {
        "mask_logits": {"dtype": "float32", "shape": [2, 3, 8, 12]},
        "class_logits": {"dtype": "float32", "shape": [2, 3, 5]},
    }


@pytest.mark.parametrize(
    "options, message",
    [
        ({"platforms": ["cpu", "gpu"]}, "there are cpu, cuda, rocm, tpu"),
        ({"platforms": []}, "there are cpu"),
        ({"batch_size": 0}, "below 1"),
    ],
)
def test_impossible_program_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        export.export_network(small_eomt()[0], **options)


def test_failed_export_leaves_nothing(tmp_path):
    model, params = small_eomt()
    params["queries"][0] = np.nan
    with pytest.raises(ValueError, match="queries"):
        export.save_export(tmp_path / "out", model, params)
    assert list(tmp_path.iterdir()) == []
