"""Weights, rates, first loss and steps of the reference run equal those of our run."""

import dataclasses
import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from eomt_jax.datasets import prepare, shapes
from eomt_jax.losses.criterion import Criterion
from eomt_jax.models import variants
from eomt_jax.training import optimizer
from eomt_jax.training.setup import setup
from eomt_jax.types import Batch, Targets
from eomt_jax.weights.foreign import huggingface
from tests.parity import eomt_reference

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from eomt_jax.benchmark import torch_network, torch_reference

pytestmark = pytest.mark.parity

GRID = (4, 4)


def make_model(**overrides):
    fields = {"patch_size": 16, **overrides}
    size = GRID[0] * fields["patch_size"]
    return variants.create_eomt(
        "micro", num_classes=5, num_queries=7, image_size=(size, size), **fields
    )


@pytest.fixture(autouse=True)
def micro(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(variants.VARIANTS, "micro", variants.Variant(24, 4, 2, 96, 2))


def make_params(model, scale=0.3):
    """Returns random parameters, so that none can be read from the wrong place."""
    height, width = model.vit.image_size
    images = np.zeros((1, height, width, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, scale, leaf.shape).astype(np.float32), shapes
    )


def make_images(model, batch=2):
    height, width = model.vit.image_size
    return np.random.default_rng(1).integers(0, 256, (batch, height, width, 3), "uint8")


@pytest.fixture(scope="module")
def shapes_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "NUM_EXAMPLES", {"train": 4, "validation": 1})
        prepare.prepare("shapes", folder)
    return folder


@pytest.fixture
def config(shapes_dir):
    """Returns a config of four steps with two images of shapes each."""
    config = quickstart.get_config()
    config.dataset.data_dir = str(shapes_dir)
    config.dataset.num_threads = 1
    config.image_size = 32
    config.model.variant = "micro"
    config.criterion.num_points = 64
    config.batch_size = 2
    config.total_steps = 4
    config.optimizer.learning_rate = 5e-4
    config.optimizer.layer_decay = 0.8
    config.optimizer.published_steps = 4
    config.optimizer.warmup_head = 1
    config.optimizer.warmup_vit = 1
    config.eval.batch_size = 1
    return config


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_register_tokens": 4},
        {"num_register_tokens": 0, "patch_size": 8},
        {"mlp_type": "swiglu", "mlp_dim": 64, "layer_norm_eps": 1e-5},
        {"positions": "rotary", "qkv_bias": "no_key"},
    ],
)
def test_converted_network_gives_our_logits(overrides):
    model = make_model(**overrides)
    params = make_params(model)
    network = torch_network.create_network(model, params, Criterion()).eval()
    network.attn_mask_probs.zero_()
    images = make_images(model)
    with torch.no_grad():
        theirs = network(torch_reference.pixel_values(images))
    ours = model.apply({"params": params}, images)
    np.testing.assert_allclose(
        ours.class_logits[0], theirs.class_queries_logits, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        ours.mask_logits[0], theirs.masks_queries_logits, rtol=1e-4, atol=1e-4
    )


def test_conversion_and_its_inverse_cancel():
    model = make_model()
    params = make_params(model)
    named = huggingface.named_tensors(model, params)
    tensors = {name: torch.tensor(t.value) for name, t in named.items()}
    jax.tree.map(
        np.testing.assert_array_equal, eomt_reference.to_tree(tensors, 2, GRID), params
    )


def make_batch(model):
    """Returns an image with two targets and a crowd, and one without any target."""
    images = make_images(model)
    id_map = np.zeros(images.shape[:3], np.uint8)
    id_map[0, :25] = 1
    id_map[0, 30:, 5:40] = 2
    id_map[0, 30:, 45:] = 3
    return Batch(
        image=images,
        targets=Targets(
            id_map=id_map,
            labels=np.array([[4, 1, 2, 0], [0, 0, 0, 0]], np.int32),
            valid=np.array([[True, True, True, False], [False] * 4]),
            is_crowd=np.array([[False, True, False, False], [False] * 4]),
        ),
        valid=np.ones(2, bool),
        example_index=np.arange(2),
        content_size=np.full((2, 2), 64),
        original_size=np.full((2, 2), 64),
    )


def small_batch():
    """Returns such a batch at the config's size."""
    batch = make_batch(make_model())
    return batch.replace(
        image=batch.image[:, ::2, ::2],
        targets=batch.targets.replace(id_map=batch.targets.id_map[:, ::2, ::2]),
    )


def test_targets_become_lists_without_crowds_and_padding():
    batch = make_batch(make_model())
    masks, classes = torch_reference.target_lists(batch.targets)
    assert [c.tolist() for c in classes] == [[4, 2], []]
    assert [m.shape for m in masks] == [(2, 64, 64), (0, 64, 64)]
    np.testing.assert_array_equal(masks[0][1], batch.targets.id_map[0] == 3)


@pytest.mark.parametrize("empty", [False, True])
def test_first_loss_agrees_within_the_sampling_noise(config, empty):
    """All queries are masked at step 0, so only the points are random."""
    run = setup(config, devices=jax.devices()[:1])
    model = run.initialization.model
    params = make_params(model, scale=0.15)
    reference = torch_reference.Reference(run, params)
    batch = small_batch()
    if empty:
        none = np.zeros_like(batch.targets.valid)
        batch = batch.replace(targets=batch.targets.replace(valid=none))
    theirs = [reference.loss(batch).item() for _ in range(8)]

    @jax.jit
    def total_loss(rng):
        outputs = model.apply(
            {"params": params},
            batch.image,
            mask_probs=jnp.ones(2),
            rngs={"mask": jax.random.key(0)},
        )
        targets = jax.tree.map(jnp.asarray, batch.targets)
        return run.config.criterion(outputs, targets, rng=rng).total

    ours = [float(total_loss(jax.random.key(i))) for i in range(8)]
    noise = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(8)
    assert noise < 0.01 * np.mean(theirs)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * noise + 1e-5 * np.mean(theirs)


# torch itself raises this warning while it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_parts_train_as_eager_ones_do(config):
    run = setup(config, devices=jax.devices()[:1])
    params = make_params(run.initialization.model, scale=0.15)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    found = []
    for options in (None, {"backend": backend}):
        reference = torch_reference.Reference(run, params, compile_options=options)
        torch.manual_seed(0)
        found.append(reference.train_step(small_batch()))
        assert bool(compiled) == (options is not None)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, err_msg=name)


def test_rates_of_every_parameter_are_ours(config):
    run = setup(config, devices=jax.devices()[:1])
    params = make_params(run.initialization.model)
    groups = run.initialization.model.parameter_groups(params)
    reference = torch_reference.Reference(run, params)
    names = {id(p): name for name, p in reference.network.named_parameters()}
    tensors = huggingface.named_tensors(run.initialization.model, params)
    for step in range(4):
        reference.step = step
        reference.set_rates()
        expected = flax.traverse_util.flatten_dict(
            optimizer.learning_rates(groups, step, run.config.optimizer, total_steps=4),
            sep="/",
        )
        found = {
            tensors[names[id(p)]].path: group["lr"]
            for group in reference.adamw.param_groups
            for p in group["params"]
        }
        assert found.keys() == expected.keys()
        for path, rate in found.items():
            assert rate == pytest.approx(float(expected[path]), rel=1e-6), path
    assert {group["weight_decay"] for group in reference.adamw.param_groups} == {0.05}


def test_frozen_blocks_are_refused(config):
    run = setup(config, devices=jax.devices()[:1])
    params = make_params(run.initialization.model)
    frozen = dataclasses.replace(run.config.optimizer, frozen_blocks=1)
    config = dataclasses.replace(run.config, optimizer=frozen)
    run = dataclasses.replace(run, config=config)
    with pytest.raises(ValueError, match="frozen_blocks"):
        torch_reference.Reference(run, params)


def test_training_writes_a_record_a_step(config, tmp_path):
    torch_reference.train(config, tmp_path, num_steps=3, devices=jax.devices()[:1])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [1, 2, 3]
    for record in records:
        parts = [record[f"loss/{name}"] for name in ("mask", "dice", "class")]
        assert sum(parts) == pytest.approx(record["loss"], rel=1e-5)
        assert record["seconds"] > 0
    assert [record["mask_prob/0"] for record in records] == [1.0, 0.0, 0.0]
    assert [record["mask_prob/1"] for record in records] == [1.0, 1.0, 1.0]


def test_step_moves_weights_by_its_rates_alone(config):
    run = setup(config, devices=jax.devices()[:1])
    params = make_params(run.initialization.model)
    reference = torch_reference.Reference(run, params)
    batch = small_batch()
    queries = reference.network.query.weight

    reference.train_step(batch)  # at rate 0
    np.testing.assert_array_equal(queries.detach(), params["queries"])
    reference.train_step(batch)
    moved = np.abs(queries.detach().numpy() - params["queries"])
    # Adam's steps, without decay, are no larger than the rate.
    assert 0.1 * 5e-4 < moved.max() < 1.5 * 5e-4


def test_run_of_ours_is_not_overwritten(config, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="of its own"):
        torch_reference.train(config, tmp_path)
