"""PyTorch's files are read safely, and damage to them is found."""

import argparse
import collections
import pathlib
import re
import resource
import zipfile

import numpy as np
import pytest

from eomt_jax.weights.formats.files import open_checkpoint

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity
torch.set_num_threads(1)


def read_all(path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.shapes}


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4), "b": (50,), "c": (1, 2, 5)}
    return {k: torch.randn(v, generator=generator) for k, v in shapes.items()}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "weights"])
@pytest.mark.parametrize("zipped", [False, True])
def test_state_dict_is_read_wrapped_or_not(tmp_path, state, wrapper, zipped):
    value = {wrapper: state, "epoch": 3} if wrapper else state
    path = tmp_path / "a.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    got = read_all(path)
    assert got.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(got[name], tensor.numpy())


@pytest.mark.parametrize(
    "keys, taken",
    [
        (("model", "model_ema"), "model_ema, and not model"),
        (("student", "teacher"), "teacher, and not student"),
        (("state_dict", "other"), "state_dict, and not other"),
    ],
)
def test_of_several_weights_the_averaged_or_usual_ones_are_taken(
    tmp_path, state, keys, taken
):
    path = tmp_path / "a.pt"
    chosen = taken.split(",")[0]
    # A trainer's state holds tensors too, beside other values.
    value = {key: {k: 2 * v for k, v in state.items()} for key in keys}
    value |= {chosen: state, "optimizer": {"state": {0: state}, "lr": 1.0}}
    torch.save(value, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.notes == (f"Taken from the file: {taken}.",)
        np.testing.assert_array_equal(checkpoint.read("a"), state["a"].numpy())


def test_several_weights_of_unknown_names_are_refused(tmp_path, state):
    torch.save({"one": state, "two": state}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="several sets of weights \\(one, two\\)"):
        read_all(tmp_path / "a.pt")


@pytest.mark.parametrize("whole", [True, False])
def test_advice_for_a_pickled_object_works(tmp_path, whole):
    """The commands in the message are run on the file that it is about."""
    network = torch.nn.Linear(2, 3)
    options = argparse.Namespace(lr=1.0)
    value = network if whole else {"state_dict": network.state_dict(), "args": options}
    path, new_path = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save(value, path)
    with pytest.raises(ValueError, match="a.pt holds a Python object") as caught:
        read_all(path)
    pattern = r"state = torch\.load\(.*?\)|torch\.save\(.*?new_path\)"
    commands = re.findall(pattern, str(caught.value))
    assert len(commands) == 3
    scope = {"torch": torch, "path": path, "new_path": new_path}
    for command in (commands[0], commands[1 if whole else 2]):
        exec(command, scope)  # noqa: S102
    np.testing.assert_array_equal(read_all(new_path)["bias"], network.bias.detach())


class Malicious:
    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, state, zipped):
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    state["d"] = Malicious(trace)
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="a.pth .*never unpickled"):
        read_all(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(2)], "holds a list; wanted tensors by name"),
        ({}, "holds a dict; wanted"),
        ({"a": torch.zeros(2), "step": 3}, "no tensors: step"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "a is stored as int64"),
        ({"a": torch.tensor([1.0, float("nan")])}, "a holds 1 values"),
        ({"a": torch.eye(3).to_sparse()}, "cannot read a"),
        ({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, "cannot read a"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a is stored as complex64"),
        ({5: torch.zeros(2)}, "no tensors: 5"),
        ({"a": torch.zeros(1).expand(10**6, 10**7)}, "needs more values than are"),
    ],
)
def test_other_contents_are_named(tmp_path, value, message):
    torch.save(value, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=f"a.bin.*{message}"):
        read_all(tmp_path / "a.bin")


def test_lightning_checkpoint_is_read_beside_plain_values(tmp_path, state):
    value = {
        "state_dict": collections.OrderedDict(state),
        "hyper_parameters": {"lr": 1e-4, "steps": [1, (2, "x")], "seed": None},
        "callbacks": {"best": torch.zeros(2)},
        "pytorch-lightning_version": "2.5",
    }
    torch.save(value, tmp_path / "a.ckpt")
    assert read_all(tmp_path / "a.ckpt").keys() == state.keys()


def test_lightning_checkpoint_with_objects_says_how_to_save_its_tensors(
    tmp_path, state
):
    value = {"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1e-4)}
    torch.save(value, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"argparse.Namespace\).*torch.save\(state\["):
        read_all(tmp_path / "a.ckpt")


def test_what_is_read_does_not_depend_on_the_file_any_more(tmp_path, state):
    path = tmp_path / "a.bin"
    torch.save(state, path)
    got = read_all(path)
    path.write_bytes(bytes(path.stat().st_size))
    for name, tensor in state.items():
        np.testing.assert_array_equal(got[name], tensor.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_views_and_other_floats_are_read(tmp_path, dtype):
    values = torch.arange(12.0).reshape(3, 4).to(dtype)
    torch.save({"a": values, "b": values.T[1:]}, tmp_path / "a.pth")
    got = read_all(tmp_path / "a.pth")
    assert got["b"].dtype == np.float32
    np.testing.assert_array_equal(got["b"], np.arange(12.0).reshape(3, 4).T[1:])


def test_zip_that_holds_no_tensors_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.bin", "w") as file:
        file.writestr("photograph.jpg", b"123")
    with pytest.raises(ValueError, match="a.bin cannot be read as PyTorch weights"):
        read_all(tmp_path / "a.bin")


def test_web_page_in_place_of_weights_is_refused(tmp_path):
    (tmp_path / "a.pth").write_text("<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(ValueError, match="a.pth cannot be read as PyTorch weights"):
        read_all(tmp_path / "a.pth")


def test_truncated_file_is_refused(tmp_path, state):
    path = tmp_path / "a.pth"
    torch.save(state, path)
    good = path.read_bytes()
    for length in np.linspace(0, len(good) - 1, 40).astype(int):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match="a.pth cannot be read"):
            read_all(path)


def test_damaged_file_is_refused_or_harmless(tmp_path, state):
    path = tmp_path / "a.pth"
    torch.save(state, path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            got = read_all(path)
        except ValueError:
            refused += 1
            continue
        for name, tensor in state.items():
            np.testing.assert_array_equal(got[name], tensor.numpy())
    assert refused > 50


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("compression", "twice", "match"),
    [
        (zipfile.ZIP_DEFLATED, False, "data.pkl is compressed"),
        (zipfile.ZIP_STORED, True, "two files named archive/data.pkl"),
    ],
)
def test_rewritten_archive_is_refused(tmp_path, compression, twice, match):
    torch.save({"x": torch.arange(5.0)}, tmp_path / "good.pth")
    path = tmp_path / "a.pth"
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(path, "w", compression) as archive,
    ):
        for member in good.infolist() * (1 + twice):
            name = f"archive/{member.filename.partition('/')[2]}"
            archive.writestr(name, good.read(member))
    with pytest.raises(ValueError, match=rf"a\.pth cannot be read.*{match}"):
        read_all(path)


CALLED = b"\x80\x02}X\x01\x00\x00\x00a%s\nJ\x00\x00\x00\x70\x85Rs."  # of 1.9e9


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (b"cbuiltins\nbytearray", "it makes an array of bytes"),
        (b"c__builtin__\nbytearray", "it makes an array of bytes"),
        (
            b"ctorch\nFloatTensor",
            r"bytes, and its tensors 7,516,192,768: it is damaged",
        ),
    ],
)
def test_pickle_that_calls_for_gigabytes_is_refused(tmp_path, state, call, match):
    path = tmp_path / "a.pth"
    torch.save(state, tmp_path / "good.pth")
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(path, "w") as changed,
    ):
        for name in good.namelist():
            is_pickle = name.endswith(".pkl")
            changed.writestr(name, CALLED % call if is_pickle else good.read(name))
    assert_refused_in_bounds(path, match)


def test_old_file_whose_storages_claim_gigabytes_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(12)}, path, _use_new_zipfile_serialization=False)
    good, short = path.read_bytes(), b"K\x0cN"  # 12, and no view
    assert good.count(short) == 1
    stored = (12).to_bytes(8, "little") + bytes(2) + b"\x80\x3f"
    assert good.count(stored) == 1
    for claimed in (100, 1 << 29, (1 << 31) - 1):
        number = claimed.to_bytes(8, "little")
        pickled = good.replace(short, b"J" + number[:4] + b"N")
        path.write_bytes(pickled)
        assert_refused_in_bounds(path, "cannot be read as PyTorch weights")
        path.write_bytes(pickled.replace(stored, number + stored[8:]))
        assert_refused_in_bounds(path, "cannot be read as PyTorch weights")


def assert_refused_in_bounds(path, match):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"a\.pth.*{match}"):
        read_all(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024  # in KiB


@pytest.mark.parametrize(
    "make",
    [
        lambda torch: torch.zeros(3 << 40, device="meta"),
        lambda torch: torch.eye(3).to_sparse(),
        lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda torch: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    ],
    ids=["meta", "sparse", "nested", "quantised"],
)
@pytest.mark.filterwarnings("ignore")  # of PyTorch, about its prototypes
def test_tensor_that_is_not_dense_is_named(tmp_path, make):
    torch.save({"a": make(torch)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: (cannot read )?a\b"):
        read_all(tmp_path / "a.pth")
