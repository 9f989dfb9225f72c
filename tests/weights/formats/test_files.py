import json
import pathlib
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import save_file

from eomt_jax.weights.formats.files import open_checkpoint, write_safetensors


def save(path, **tensors):
    save_file(tensors, path)
    return path


def read_all(path):
    with open_checkpoint(path) as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.shapes}
        assert {k: v.shape for k, v in tensors.items()} == checkpoint.shapes
        return tensors


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_read_widens_to_float32(tmp_path, dtype):
    values = np.array([[1.5, -0.25, 3]], dtype)
    got = read_all(save(tmp_path / "a.safetensors", x=values))["x"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[1.5, -0.25, 3]])


@pytest.mark.parametrize(
    "values",
    [[0, np.nan], [np.inf, 0], np.array([1e300])],
    ids=["nan", "inf", "too_large"],
)
def test_read_refuses_what_is_not_finite(tmp_path, values):
    path = save(tmp_path / "a.safetensors", bad=np.asarray(values))
    with pytest.raises(ValueError, match="a.safetensors: bad holds 1 values"):
        read_all(path)


def test_read_refuses_integers(tmp_path):
    path = save(tmp_path / "a.safetensors", x=np.zeros(3, np.int8))
    with pytest.raises(ValueError, match="x is stored as int8"):
        read_all(path)


@pytest.mark.parametrize("length", [0, 5, 30, -1])
def test_truncated_safetensors_is_named(tmp_path, length):
    path = save(tmp_path / "a.safetensors", x=np.zeros(30, np.float32))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="a.safetensors is no readable safetensors"):
        read_all(path)


def test_missing_path_and_unknown_suffix_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.pth"):
        read_all(tmp_path / "nothing.pth")
    (tmp_path / "model.onnx").write_text("")
    with pytest.raises(ValueError, match="model.onnx is no file of weights"):
        read_all(tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="it holds model.onnx"):
        read_all(tmp_path)


def test_file_that_git_lfs_has_not_fetched_is_named(tmp_path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
    (tmp_path / "model.safetensors").write_text(text)
    with pytest.raises(ValueError, match="model.safetensors stands for .*git lfs pull"):
        read_all(tmp_path)


def test_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match="model.safetensors is a folder"):
        read_all(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ValueError, match="config.json is a folder"):
        read_all(tmp_path)


@pytest.mark.parametrize("name", ["loop", "loop/inside", "x\0y", "x" * 5000])
def test_path_that_cannot_exist_is_not_there(tmp_path, name):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at"):
        read_all(tmp_path / name)


def test_what_is_read_does_not_depend_on_the_file_any_more(tmp_path):
    path = save(tmp_path / "a.safetensors", x=np.ones(1000, np.float32))
    got = read_all(path)["x"]
    path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(got, np.ones(1000))


def test_large_finite_values_are_no_damage(tmp_path):
    # The sum of these finite values is infinite in float32.
    path = save(tmp_path / "a.safetensors", x=np.full(100, 3e38, np.float32))
    np.testing.assert_array_equal(read_all(path)["x"], np.full(100, 3e38, np.float32))


def test_torch_file_without_torch_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(ImportError, match=r"pip install 'eomt_jax\[torch\]'"):
        read_all(tmp_path / "a.pth")


def write_shards(folder, weight_map=None):
    save(folder / "1.safetensors", a=np.zeros(2, np.float32))
    save(folder / "2.safetensors", b=np.ones(3, np.float32))
    weight_map = weight_map or {"a": "1.safetensors", "b": "2.safetensors"}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_folder_of_shards_is_one_checkpoint(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 5}')
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.shapes == {"a": (2,), "b": (3,)}
        assert checkpoint.config == {"hidden_size": 5}
        np.testing.assert_array_equal(checkpoint.read("b"), np.ones(3))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "1.safetensors", "b": "3.safetensors"}, "3.safetensors, which is not"),
        ({"a": "1.safetensors", "b": "1.safetensors"}, "disagree about b"),
        ({"a": "../1.safetensors"}, "not in its folder"),
    ],
)
def test_shards_that_do_not_fit_their_index_are_refused(tmp_path, weight_map, message):
    write_shards(tmp_path, weight_map)
    with pytest.raises(ValueError, match=message):
        read_all(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "\xff", "[" * 100_000])
def test_broken_config_is_named(tmp_path, text):
    save(tmp_path / "model.safetensors", a=np.zeros(2, np.float32))
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="config.json"):
        read_all(tmp_path)


ENTRY = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}


@pytest.mark.parametrize(
    ("header", "num_header_bytes"),
    [
        (b"", None),
        (b"\xff", None),
        (b"[" * 50_000, None),
        (b"[]", None),
        ({"x": ENTRY}, 2**63),
        ({"x": ENTRY}, 2**40),
        ({"x": ENTRY}, 10_000),
        ({"__metadata__": {"a": 5}, "x": ENTRY}, None),
        ({"x": ENTRY | {"shape": [2]}}, None),
        ({"x": ENTRY | {"shape": [2**40, 2**40]}}, None),
        ({"x": ENTRY | {"shape": [-1, -3]}}, None),
        ({"x": ENTRY | {"dtype": 5}}, None),
        ({"x": ENTRY | {"data_offsets": [12, 0]}}, None),
        ({"x": None}, None),
        ({"x": ENTRY, "y": ENTRY}, None),
        ({"x": ENTRY | {"data_offsets": [4, 16]}}, None),
        (json.dumps({"x": ENTRY})[:-1].encode() + b', "x": {}}', None),
    ],
)
def test_header_that_does_not_describe_the_file_is_refused(
    tmp_path, header, num_header_bytes
):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if num_header_bytes is None else num_header_bytes
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + text + bytes(12))
    with pytest.raises(ValueError, match="a.safetensors is no readable safetensors"):
        read_all(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_written_tensors_come_back_with_their_texts(tmp_path, dtype):
    tensors = {
        "a/b": np.arange(6).reshape(2, 3).astype(dtype),
        "scalar": np.ones((), dtype),
        "transposed": np.arange(12).reshape(3, 4).astype(dtype).T,
    }
    path = tmp_path / "new" / "a.safetensors"
    write_safetensors(path, tensors, {"about": "ä"})
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata == {"about": "ä"}
        assert checkpoint.shapes == {name: t.shape for name, t in tensors.items()}
        for name, tensor in tensors.items():
            assert checkpoint.load(name).dtype == dtype
            np.testing.assert_array_equal(checkpoint.read(name), tensor)


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(tensors, path, metadata):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_safetensors(tmp_path / "a.safetensors", {"a": np.zeros(3)}, {})
    assert not list(tmp_path.iterdir())


def test_weights_named_alone_keep_the_config_beside_them(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 5}')
    path = save(tmp_path / "model.safetensors", a=np.zeros(2, np.float32))
    other = save(tmp_path / "other.safetensors", a=np.zeros(2, np.float32))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.config == {"hidden_size": 5}
    with open_checkpoint(other) as checkpoint:
        assert checkpoint.config == {}
