import json
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from eomt_jax.weights import safetensors_file

ENTRY = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}


def write_raw(path, header, data=bytes(12), num_header_bytes=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if num_header_bytes is None else num_header_bytes
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("dtype", safetensors_file.DTYPES.values(), ids=str)
def test_written_by_us_equals_read_by_safetensors_and_back(tmp_path, dtype):
    tensors = {
        "a/b": np.arange(6).reshape(2, 3).astype(dtype),
        "scalar": np.ones((), dtype),
        "none": np.ones((0, 4), dtype),
        "transposed": np.arange(12).reshape(3, 4).astype(dtype).T,
    }
    ours, theirs = tmp_path / "new" / "a.safetensors", tmp_path / "b.safetensors"
    safetensors_file.write(ours, tensors, {"about": "ä"})
    contiguous = {name: np.array(t, order="C") for name, t in tensors.items()}
    if dtype != ml_dtypes.bfloat16:  # safetensors looks for its name in NumPy
        read = safetensors.numpy.load_file(ours)
        assert read.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert read[name].dtype == dtype
            np.testing.assert_array_equal(read[name], tensor)
    safetensors.numpy.save_file(contiguous, theirs, {"about": "ä"})
    for path in (ours, theirs):
        header = safetensors_file.read_header(path)
        assert header.metadata == {"about": "ä"}
        for name, tensor in tensors.items():
            assert header.entries[name].shape == tensor.shape
            read = safetensors_file.read_tensor(header, name)
            assert read.dtype == dtype
            np.testing.assert_array_equal(read, tensor)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "its header is no JSON"),
        (b"{", "its header is no JSON"),
        (b"\xff", "its header is no JSON"),
        (b"[" * 50_000, "its header is no JSON"),
        (b"[]", "no JSON object with texts"),
        ({"__metadata__": {"a": 5}, "x": ENTRY}, "no JSON object with texts"),
        ({"__metadata__": [], "x": ENTRY}, "no JSON object with texts"),
        ({}, "end at byte 10, the file at 22"),
        ({"x": ENTRY | {"shape": [2]}}, r"shape \(2,\), does not fit its 12 bytes"),
        ({"x": ENTRY | {"shape": [2**40, 2**40]}}, "does not fit its 12 bytes"),
        ({"x": ENTRY | {"shape": [-1, -3]}}, "describes x as"),
        ({"x": ENTRY | {"shape": [3.0]}}, "describes x as"),
        ({"x": ENTRY | {"shape": [True, 3]}}, "describes x as"),
        ({"x": ENTRY | {"shape": 3}}, "describes x as"),
        ({"x": ENTRY | {"dtype": 5}}, "describes x as"),
        ({"x": ENTRY | {"data_offsets": [0]}}, "describes x as"),
        ({"x": ENTRY | {"data_offsets": [12, 0]}}, "does not fit its -12 bytes"),
        ({"x": {"dtype": "F32"}}, "describes x as"),
        ({"x": None}, "describes x as"),
        ({"x": ENTRY, "y": ENTRY}, "y begins at byte .*, the tensor before it ends at"),
        ({"x": ENTRY | {"data_offsets": [4, 16]}}, "x begins at byte"),
        (
            json.dumps({"x": ENTRY})[:-1].encode() + b', "x": {}}',
            "x stands there twice",
        ),
        (b'{"x": {"dtype": "F32", "dtype": "F16"}}', "dtype stands there twice"),
    ],
)
def test_header_that_does_not_describe_the_file_is_refused(tmp_path, header, message):
    path = write_raw(tmp_path / "a.safetensors", header)
    with pytest.raises(ValueError, match=message):
        safetensors_file.read_header(path)


@pytest.mark.parametrize("num_bytes", [2**63, 2**40, 100_000_000, 10_000])
def test_header_longer_than_the_file_is_refused(tmp_path, num_bytes):
    path = write_raw(tmp_path / "a", {"x": ENTRY}, num_header_bytes=num_bytes)
    with pytest.raises(ValueError, match=f"its header should have {num_bytes}"):
        safetensors_file.read_header(path)


def test_type_that_numpy_lacks_is_named(tmp_path):
    row = {"dtype": "F8_E4M3", "shape": [12], "data_offsets": [0, 12]}
    header = safetensors_file.read_header(write_raw(tmp_path / "a", {"x": row}))
    with pytest.raises(ValueError, match="stored as F8_E4M3"):
        safetensors_file.read_tensor(header, "x")


def test_each_tensor_is_in_memory_once(tmp_path):
    tensors = {f"x{i}": np.full((1000, 1000), i, np.float32) for i in range(6)}
    path = tmp_path / "a.safetensors"
    tracemalloc.start()
    safetensors_file.write(path, tensors, {})
    _, written = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    header = safetensors_file.read_header(path)
    read = {name: safetensors_file.read_tensor(header, name) for name in tensors}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    num_bytes = sum(tensor.nbytes for tensor in read.values())
    assert written < 0.1 * num_bytes
    assert num_bytes < peak < 1.1 * num_bytes
