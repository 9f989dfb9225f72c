"""Networks go to a server in place of the hub, and come back by their name."""

import json
import re

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

import eomt_jax
from eomt_jax.cli import convert
from eomt_jax.dataset_info import published_info
from eomt_jax.task_registry import get_task
from eomt_jax.training.reporting.model_card import PICTURE
from eomt_jax.weights.native import model_folder
from tests.weights.foreign.test_huggingface import small_eomt
from tests.weights.formats.hub_server import TOKEN, Hub

RESULTS = {
    "task": "instance",
    "all": {
        **{name: None for _, name in get_task("instance").mean_columns},
        "ap50": 25.0,
        "num_classes": 1,
    },
    "per_class": [],
    "num_images": 7,
    "images_per_second": 1.0,
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a server in place of the hub, which knows the user's token."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield server
    server.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of a training of which step 20 is kept."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    model, params = small_eomt()
    info = published_info("coco_instance")
    model_folder.save(folder, model, params, dataset_info=info)
    steps = folder / model_folder.STEPS_FOLDER
    (steps / "0").rename(steps / "20")
    config = {
        "batch_size": 4,
        "seed": 0,
        "dataset": {"name": "mine", "data_dir": "/home/me", "eval_split": "test"},
        "init": {"checkpoint": "tue-mps/eomt", "backbone": "/home/me/dino.safetensors"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("evaluations", "pictures"):
        (folder / name).mkdir()
    for step, ap in ((20, 12.5), (30, 99.0)):
        RESULTS["all"]["ap"] = ap
        text = json.dumps(RESULTS)
        (folder / f"evaluations/{step:08d}.json").write_text(text)
        picture = Image.new("RGB", (8, 8), (step, 0, 0))
        picture.save(folder / f"pictures/{step:08d}.png")
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Returns a single file of ours, which opens fastest."""
    path = tmp_path_factory.mktemp("file") / "mine.safetensors"
    model, params = small_eomt()
    info = published_info("coco_instance")
    model_folder.save_file(path, model, params, dataset_info=info)
    return path


def assert_loads(name, folder):
    model, params = eomt_jax.load(name)
    expected, expected_params = eomt_jax.load(folder)
    assert model == expected
    jax.tree.map(np.testing.assert_array_equal, params, expected_params)


def test_training_goes_to_the_hub_and_comes_back(hub, run, tmp_path, capsys):
    assert convert.main([str(run), "--push_to=me/mine", "--license=cc-by-4.0"]) == 0
    out = capsys.readouterr().out
    assert f"{hub.url}/me/mine: EoMT of width" in out
    assert "Uploaded: README.md, example.png, model.safetensors" in out
    files = hub.repositories["me/mine"]
    assert files.keys() - {".gitattributes"} == {
        "README.md",
        "example.png",
        "model.safetensors",
    }
    assert not hub.private["me/mine"]
    assert_loads("me/mine", run)
    segmenter = eomt_jax.Segmenter.from_checkpoint("me/mine")
    assert segmenter.info == published_info("coco_instance")


def test_page_says_data_recipe_scores_licence_and_how_to_load(hub, run):
    assert convert.main([str(run), "--push_to=me/mine", "--license=cc-by-4.0"]) == 0
    card = huggingface_hub.ModelCard(
        hub.repositories["me/mine"]["README.md"].decode(), ignore_metadata_errors=False
    )
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "eomt_jax"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.base_model == "tue-mps/eomt"
    for text in (
        "# mine\n",
        f"]({PICTURE})",
        'Segmenter.from_checkpoint("me/mine")',
        "`coco_instance`, annotated for instance segmentation.",
        "80 classes: person, bicycle,",
        "trained for 20 steps",
        "batch_size = 4\n",
        "init.checkpoint = 'tue-mps/eomt'\n",
        "init.backbone = 'dino.safetensors'\n",
        "On 7 photographs of test, after step 20",
        "under the licence cc-by-4.0",
    ):
        assert text in card.text, text
    assert re.search(r"^all +12\.5 +25\.0", card.text, re.MULTILINE)
    # Nothing of this machine, and no default, is published.
    assert "/home/me" not in card.text
    assert "seed" not in card.text


def test_private_repository_without_picture_or_licence(hub, run, tmp_path):
    out = tmp_path / "out.safetensors"
    flags = ["--push_to=me/mine", "--private", "--no-picture"]
    assert convert.main([str(run), str(out), *flags]) == 0
    assert hub.private["me/mine"]
    files = hub.repositories["me/mine"]
    assert files["model.safetensors"] == out.read_bytes()
    assert PICTURE not in files
    assert b"has not stated a licence" in files["README.md"]
    assert b"license" not in files["README.md"]


def test_folder_for_transformers_goes_to_the_hub(hub, run, tmp_path):
    flags = ["--push_to=me/mine", "--to=huggingface"]
    assert convert.main([str(run), str(tmp_path / "out"), *flags]) == 0
    files = hub.repositories["me/mine"]
    assert {"config.json", "model.safetensors", "README.md"} <= files.keys()
    assert b"library_name: transformers" in files["README.md"]
    assert_loads("me/mine", run)


def test_file_without_a_training_has_a_page_too(hub, file):
    assert convert.main([str(file), "--push_to=me/file"]) == 0
    card = hub.repositories["me/file"]["README.md"]
    assert b"## Data" in card and b"## Training" not in card


def test_empty_repository_is_filled(hub, file):
    hub.repositories["me/mine"] = {".gitattributes": b""}
    assert convert.main([str(file), "--push_to=me/mine"]) == 0
    assert "model.safetensors" in hub.repositories["me/mine"]


@pytest.mark.parametrize(
    "change, flags, message",
    [
        ("", ["--push_to=mine"], "mine is no name on the Hugging Face hub: it is org/"),
        ("", ["--push_to=me/mine@v1"], "me/mine@v1 is no name"),
        ("", ["--push_to=me/a--b"], "me/a--b is no name on the Hugging Face hub: HFV"),
        ("", ["--push_to=me/mine", "--to=eomt_jax"], "--to=safetensors or"),
        ("", ["--push_to=me/mine", "--to=huggingface"], "Give OUT"),
        ("no token", ["--push_to=me/mine"], "doesn't know who you are: run `hf auth"),
        ("bad token", ["--push_to=me/mine"], "doesn't let you write to me/mine"),
        ("read only", ["--push_to=me/mine"], "doesn't let you write to me/mine"),
        (
            "no network",
            ["--push_to=me/mine"],
            "me/mine cannot be uploaded to the Hugging Face hub (Conn",
        ),
        ("exists", ["--push_to=me/mine"], "me/mine exists already on the Hugging Fac"),
    ],
)
def test_what_cannot_be_uploaded_ends_in_one_line(
    change, flags, message, hub, file, monkeypatch, capsys
):
    if change == "no token":
        monkeypatch.delenv("HF_TOKEN")
    elif change == "bad token":
        monkeypatch.setenv("HF_TOKEN", "hf_other")
    elif change == "read only":
        hub.read_only = True
    elif change == "no network":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    elif change == "exists":
        hub.repositories["me/mine"] = {"model.safetensors": b"mine"}
    before = json.dumps({k: list(v) for k, v in hub.repositories.items()})
    assert convert.main([str(file), *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("eomt-convert: ")
    assert error.count("\n") == 1
    assert message in error
    assert json.dumps({k: list(v) for k, v in hub.repositories.items()}) == before
