"""Names on the hub are resolved, with functions in place of the hub."""

import types

import huggingface_hub
import pytest
from huggingface_hub import errors

from eomt_jax.weights.formats import hub


@pytest.fixture
def requests(tmp_path, monkeypatch):
    """Replaces the hub by one with the files of `repository`; returns its requests."""
    repository = ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"]
    asked = []

    def download(name, *, revision, allow_patterns, ignore_patterns):
        asked.append((name, revision))
        folder = tmp_path / "cache" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in huggingface_hub.utils.filter_repo_objects(
            repository, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (folder / file).write_text("")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return repository, asked


@pytest.mark.parametrize("path", ["here", "~/here", "org/here", "gs://bucket/x"])
def test_local_paths_and_buckets_stay(tmp_path, monkeypatch, requests, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").write_text("")
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "here").write_text("")
    assert str(hub.resolve(path)) == path.replace("~", str(tmp_path))
    assert not requests[1]


@pytest.mark.parametrize(
    ("files", "downloaded"),
    [
        (
            ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"],
            ["config.json", "model.safetensors"],
        ),
        (
            ["preprocessor_config.json", "pytorch_model.bin", "config.json"],
            ["config.json", "preprocessor_config.json", "pytorch_model.bin"],
        ),
        (
            [
                "config.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "onnx/model.safetensors",
                "adapter.safetensors",
            ],
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        ),
    ],
    ids=["safetensors_first", "torch", "shards"],
)
def test_name_becomes_a_folder_of_the_files_needed(requests, files, downloaded):
    repository, asked = requests
    repository[:] = files
    folder = hub.resolve("org/a-model_1.0@v2/x")
    assert set(asked) == {("org/a-model_1.0", "v2/x")}
    assert sorted(file.name for file in folder.iterdir()) == downloaded


def test_weights_without_a_configuration_are_a_file(requests):
    repository, asked = requests
    repository[:] = ["model.safetensors"]
    assert hub.resolve("org/name").parts[-2:] == ("name", "model.safetensors")
    repository[:] = ["pytorch_model.bin"]
    assert hub.resolve("org/other").parts[-2:] == ("other", "pytorch_model.bin")
    assert asked == [("org/name", None), ("org/other", None), ("org/other", None)]


def test_repository_without_weights_is_named(requests):
    requests[0][:] = ["config.json"]
    with pytest.raises(ValueError, match="org/name on .* holds neither"):
        hub.resolve("org/name")


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "a/b/c",
        "/a/b",
        "./a",
        "a/b.safetensors",
        "a/b.pth",
        "a b/c",
        "a/..@x",
    ],
)
def test_what_is_no_name_is_a_missing_file(requests, path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at"):
        hub.resolve(path)
    assert not requests[1]


def http_error(kind, status):
    response = types.SimpleNamespace(headers={}, request=None, status_code=status)
    return kind("not for you", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            http_error(errors.GatedRepoError, 403),
            "behind a licence.*https://huggingface.co/org/name,.*hf auth login",
        ),
        (http_error(errors.RevisionNotFoundError, 404), "has no revision v3"),
        (
            http_error(errors.RepositoryNotFoundError, 401),
            "no checkpoint at org/name@v3 on this machine.*no public model",
        ),
        (errors.HFValidationError("--"), "no checkpoint at org/name@v3 .*no public"),
        (
            errors.LocalEntryNotFoundError("offline"),
            "no checkpoint at org/name@v3 .*cannot be reached.*give the folder",
        ),
        (
            http_error(errors.HfHubHTTPError, 500),
            r"cannot be downloaded.*\(HfHubHTTPError: not for you\)",
        ),
        (OSError("disk full"), r"org/name@v3 cannot be .*\(OSError: disk full\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_hub_that_does_not_give_it_is_explained(monkeypatch, error, message):
    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match=message):
        hub.resolve("org/name@v3")


def test_cached_model_is_found_without_a_network(tmp_path, monkeypatch):
    """It is found by Hugging Face's own function in a cache on the disk."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert str(hub.resolve("org/name")) == str(snapshot)
    with pytest.raises(ValueError, match="cannot be reached"):
        hub.resolve("org/other")
