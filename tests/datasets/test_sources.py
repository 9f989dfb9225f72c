"""Files of archives and folders are read in bounded memory; messages are short."""

import io
import os
import tarfile
import tracemalloc
import zipfile

import pytest

from eomt_jax.datasets.sources import TarSource, ZipSource, open_source, some
from tests.datasets.coco_archives import zip_bytes
from tests.datasets.map_archives import tar_bytes, write_files, write_zip

MIB = 1 << 20


def test_some_names_are_few_and_short():
    assert some("cab") == "a, b, c"
    text = some([f"{i}" + "x" * 10**6 for i in range(7)])
    assert len(text) < 5 * 205 + 20
    assert text.endswith("… and 2 more")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_inner_archive_is_read_in_order_without_being_held(tmp_path, compression):
    files = {f"{i:02d}.bin": bytes([i, 1, 2, 3]) * MIB for i in range(32)}
    outer = tmp_path / "outer.zip"
    with zipfile.ZipFile(outer, "w", compression, compresslevel=1) as archive:
        archive.writestr("folder/inner.zip", zip_bytes(files))

    tracemalloc.start()
    with (
        ZipSource(outer.open("rb"), "outer.zip", "from there") as source,
        source.inner("folder/inner.zip") as inner,
    ):
        for name in sorted(inner.names(), key=inner.order):
            assert inner.read(name) == files[name]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # zipfile skips ahead 16 MiB at a time, and the inner archive has 128 MiB.
    assert peak < 64 * MIB


def test_zip_source_names_within_a_folder():
    stream = io.BytesIO(zip_bytes({"a/1": b"x", "a/2": b"y", "b/3": b"z", "a/": b""}))
    with ZipSource(stream, "some.zip", "from there") as source:
        assert source.names("a/") == ["1", "2"]
        assert "b/3" in source
        assert "b/4" not in source
        assert source.order("a/1") < source.order("a/2")
    assert stream.closed


def test_zip_source_of_something_else_is_refused_and_closed():
    stream = io.BytesIO(b"<html>404 Not Found</html>")
    with pytest.raises(ValueError, match="some.zip is truncated or no zip.*26 bytes"):
        ZipSource(stream, "some.zip", "from there")
    assert stream.closed


def test_zip_source_cut_inside_a_nested_archive_is_refused():
    nested = zip_bytes({"in": b"side"})
    whole = zip_bytes({"nested.zip": nested, "more": b"..."})
    cut = whole[: whole.index(nested) + len(nested)]
    with pytest.raises(ValueError, match="truncated .* begins at byte"):
        ZipSource(io.BytesIO(cut), "some.zip", "from there")


FILES = {"b/2.bin": b"two", "a.txt": b"", "b/1.bin": bytes(3000), "c/d/e": b"e"}
HIDDEN = {".DS_Store": b"x", "b/._1.bin": b"x", "__MACOSX/b/1.bin": b"x", ".x/1": b""}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_open_source_reads_the_same_files_from_every_kind(tmp_path, kind):
    path = tmp_path / f"files.{kind}"
    if kind == "folder":
        write_files(path, FILES | HIDDEN)
    elif kind == "zip":
        write_zip(path, FILES | HIDDEN)
    else:
        path.write_bytes(tar_bytes(FILES | HIDDEN))

    with open_source(path) as source:
        assert sorted(source.names()) == sorted(FILES)
        assert sorted(source.names("b/")) == ["1.bin", "2.bin"]
        assert {name: source.read(name) for name in source.names()} == FILES
        assert "b/1.bin" in source
        assert "b" not in source
        assert ".DS_Store" not in source
        orders = [source.order(name) for name in source.names()]
        assert orders == sorted(set(orders))


def test_open_source_of_a_folder_is_in_the_order_of_names(tmp_path):
    with open_source(write_files(tmp_path, FILES)) as source:
        assert source.names() == sorted(FILES)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_inner_archive_lies_in_every_kind(tmp_path, kind):
    files = {"in/side.zip": zip_bytes({"x": b"deep"})}
    path = tmp_path / f"files.{kind}"
    if kind == "folder":
        write_files(path, files)
    else:
        path.write_bytes(zip_bytes(files) if kind == "zip" else tar_bytes(files))

    with open_source(path) as source, source.inner("in/side.zip") as inner:
        assert inner.read("x") == b"deep"
        assert inner.name.endswith(f"files.{kind}/in/side.zip")


def test_open_source_says_what_it_wants(tmp_path):
    write_files(tmp_path, {"photos.rar": b"x", "empty/.hidden": b"x"})
    with pytest.raises(ValueError, match=r"photos\.jpg is neither a folder nor a file"):
        open_source(tmp_path / "photos.jpg")
    with pytest.raises(ValueError, match=r"photos\.rar is neither .* \.zip, \.tar"):
        open_source(tmp_path / "photos.rar")
    with pytest.raises(ValueError, match="empty holds no file"):
        open_source(tmp_path / "empty")


@pytest.mark.parametrize("length", [100, 512 * 4, 512 * 5, 512 * 9 + 100])
def test_tar_cut_anywhere_is_refused_and_closed(length):
    whole = tar_bytes(FILES)
    assert length < len(whole.rstrip(b"\0"))
    stream = io.BytesIO(whole[:length])
    with pytest.raises(ValueError, match=f"some.tar is truncated or .*{length:,} byte"):
        TarSource(stream, "some.tar", "from there")
    assert stream.closed


def test_tar_cut_between_two_members_is_refused():
    whole = tar_bytes({"1": b"one", "2": b"two"})
    assert whole[1024:1029] == b"./2\0\0"
    with pytest.raises(ValueError, match="no end is marked at byte 1,024"):
        TarSource(io.BytesIO(whole[:1024]), "some.tar", "from there")


def test_member_that_is_encrypted_is_named():
    whole = bytearray(zip_bytes({"secret.png": b"content"}))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        whole[whole.index(signature) + offset] |= 1  # the flag of encryption
    with (
        ZipSource(io.BytesIO(bytes(whole)), "some.zip", "make it again") as source,
        pytest.raises(ValueError, match=r"secret\.png in some\.zip is .*encrypted"),
    ):
        source.read("secret.png")


def test_tar_source_of_something_else_is_refused():
    with pytest.raises(ValueError, match="some.tar is truncated or no tar archive"):
        TarSource(io.BytesIO(b"<html>" * 200), "some.tar", "from there")


def test_some_spells_out_five():
    assert some(["b", "a"]) == "a, b"
    assert some(map(str, range(9))) == "0, 1, 2, 3, 4 and 4 more"


def _zip_of(*members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return bytearray(stream.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_two_files_of_one_name_is_refused():
    whole = _zip_of(("a.png", b"one"), ("b.png", b"b"), ("a.png", b"two"))
    with pytest.raises(ValueError, match=r"two files named a\.png"):
        ZipSource(io.BytesIO(whole), "some.zip", "make it again")


def test_zip_whose_files_share_bytes_is_refused():
    whole = _zip_of(("a.png", b"one"), ("b.png", b"one"))
    second = whole.rindex(b"PK\1\2")
    whole[second + 42 : second + 46] = bytes(4)  # where its bytes begin
    with pytest.raises(ValueError, match=r"a\.png and b\.png share bytes"):
        ZipSource(io.BytesIO(whole), "some.zip", "make it again")


@pytest.mark.parametrize("where", [20, 24])
def test_zip_whose_table_claims_more_than_is_there_is_refused(where):
    whole = _zip_of(("a.png", b"one"))
    entry = whole.rindex(b"PK\1\2")
    whole[entry + where : entry + where + 4] = (0xF0000000).to_bytes(4, "little")
    match = r"a\.png (grows from 3 to 4,026,531,840|reaches into its table)"
    with pytest.raises(ValueError, match=match):
        ZipSource(io.BytesIO(whole), "some.zip", "make it again")


def test_zip_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr("eomt_jax.zip_archives.MAX_GROWN", 1 << 20)
    grown = bytes((1 << 20) + 1)
    whole = _zip_of(("a.png", grown), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"a\.png grows from 1,\d\d\d to 1,048,577"):
        ZipSource(io.BytesIO(whole), "some.zip", "make it again")


def test_archive_with_too_many_names_is_refused(monkeypatch):
    files = {f"{i}.png": b"" for i in range(30)}
    monkeypatch.setattr("eomt_jax.zip_archives.MAX_TABLE", 1000)
    monkeypatch.setattr("eomt_jax.datasets.sources.MAX_NAMES", 29)
    with pytest.raises(ValueError, match=r"table of contents has 1,\d\d\d bytes"):
        ZipSource(io.BytesIO(zip_bytes(files)), "some.zip", "make it again")
    with pytest.raises(ValueError, match="more than 29 files; unpack it"):
        TarSource(io.BytesIO(tar_bytes(files)), "some.tar", "make it again")


def test_tar_with_two_files_of_one_name_is_refused():
    one, two = tar_bytes({"a.png": b"one"}), tar_bytes({"a.png": b"two"})
    with pytest.raises(ValueError, match=r"two files named a\.png"):
        TarSource(io.BytesIO(one[:1024] + two), "some.tar", "make it again")


def test_tar_file_with_holes_is_refused():
    member = tarfile.TarInfo("a.png")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"77777777777\0"  # the size with its holes, 8 GB
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    with pytest.raises(ValueError, match=r"a\.png is stored with holes"):
        TarSource(io.BytesIO(bytes(header) + bytes(1024)), "some.tar", "make it again")


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_file_larger_than_the_limit_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("eomt_jax.datasets.sources.MAX_FILE", 2999)
    path = tmp_path / f"files.{kind}"
    if kind == "folder":
        write_files(path, FILES)
    else:
        path.write_bytes(zip_bytes(FILES) if kind == "zip" else tar_bytes(FILES))
    with open_source(path) as source:
        assert source.read("b/2.bin") == b"two"
        with pytest.raises(ValueError, match=r"b/1\.bin in .*3,000 bytes, more than"):
            source.read("b/1.bin")


def test_named_pipe_among_the_files_is_refused_unread(tmp_path):
    write_files(tmp_path, {"a.png": b"a"})
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "b.zip")
    with open_source(tmp_path) as source:
        for name, read in (("b.png", source.read), ("b.zip", source.inner)):
            with pytest.raises(ValueError, match=f"{name} is a named pipe"):
                read(name)
    with pytest.raises(ValueError, match=r"b\.zip is a named pipe"):
        open_source(tmp_path / "b.zip")
