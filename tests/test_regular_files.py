"""Every reader refuses pipes, devices and the like, and says what they are."""

import os
import signal
import socket

import pytest
from etils import epath

import eomt_jax
from eomt_jax.cli import photograph_files
from eomt_jax.datasets import coco_format, instance_folder, mask_folder
from eomt_jax.datasets.sources import open_source
from eomt_jax.evaluation.tables import check_replaceable
from eomt_jax.pipeline import info_sources, records
from eomt_jax.predict.photographs import read_photograph
from eomt_jax.regular_files import check_regular
from eomt_jax.weights.formats.files import open_checkpoint
from eomt_jax.weights.native import model_folder


@pytest.fixture(autouse=True)
def alarm():
    """Ends a test that hangs."""

    def stop(*_):
        raise TimeoutError("a reader waits for a file that never ends")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    # The path of a socket may have 108 bytes, and a test's folder has a longer one.
    with socket.socket(socket.AF_UNIX) as opened:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            opened.bind(path.name)
        finally:
            os.chdir(here)


def make_link_to(target):
    return lambda path: path.symlink_to(target)


SPECIAL = {
    "pipe": (make_pipe, "is a named pipe"),
    "socket": (make_socket, "is a socket"),
    "device": (make_link_to("/dev/zero"), "is a device"),
    "made up": (make_link_to("/proc/self/status"), "the system makes it up"),
}


def read_weights(path):
    with open_checkpoint(path):
        pass


def read_folder(path):
    with open_source(path.parent) as source:
        source.read(path.name)


def read_coco(path):
    builder = coco_format.CocoFormat.__new__(coco_format.CocoFormat)
    builder._read_table(path)


# Name of the file, and the function that reads it.
READERS = {
    "photograph": ("a.jpg", read_photograph),
    "member of a folder": ("a.jpg", read_folder),
    "archive": ("a.zip", open_source),
    "tar archive": ("a.tar", open_source),
    "objects' classes": (
        "a.csv",
        lambda path: instance_folder._read_table(os.fspath(path), ()),
    ),
    "safetensors": ("a.safetensors", read_weights),
    "pickled weights": ("a.pth", read_weights),
    "weights in a folder": ("model.safetensors", lambda p: read_weights(p.parent)),
    "config.json": ("config.json", lambda p: read_weights(p.parent)),
    "index of shards": (
        "model.safetensors.index.json",
        lambda path: read_weights(path.parent),
    ),
    "shard": ("part.safetensors", read_weights),
    "model.json": ("model.json", lambda p: model_folder.read_model_config(p.parent)),
    "load": ("a.safetensors", eomt_jax.load),
    "class table": ("a.json", info_sources.open_info),
    "class list": ("a.txt", mask_folder.read_class_list),
    "annotations": ("a.json", read_coco),
    "prepared dataset": (
        "metadata.json",
        lambda path: records.read_prepared_info(path.parent),
    ),
    "result of before": (
        "a.json",
        lambda path: check_replaceable(path, "mine", "validation"),
    ),
    "file beside photographs": ("a.json", photograph_files._is_ours),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_what_is_no_regular_file(tmp_path, reader, kind):
    name, read = READERS[reader]
    make, message = SPECIAL[kind]
    make(tmp_path / name)
    # Some readers check first whether it is a file.
    with pytest.raises(ValueError, match=rf"{name}.*({message}|is no file)"):
        read(epath.Path(tmp_path / name))


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_an_empty_folder_of_a_file_s_name(tmp_path, reader):
    name, read = READERS[reader]
    (tmp_path / name).mkdir()
    refused = r"is a folder|is no file|holds (no|neither) "
    with pytest.raises(ValueError, match=rf"{tmp_path}.*({refused})"):
        read(epath.Path(tmp_path / name))


def test_check_regular_takes_files_links_and_buckets(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path / "b", tmp_path / "missing", "gs://x/y"):
        check_regular(path, max_bytes=5)


def test_check_regular_says_how_large_a_file_may_be(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(3_100_000_000)  # a hole, which takes no room
    with pytest.raises(ValueError, match=r"a\.json has 3\.1 GB; more than 2\.0 GB"):
        check_regular(tmp_path / "a.json", max_bytes=2_000_000_000)
    with pytest.raises(ValueError, match=r"a\.json has 3\.1 GB; more than 0\.3 GB"):
        info_sources.open_info(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json has 3\.1 GB; more than 1\.1 GB"):
        read_photograph(tmp_path / "a.json")
