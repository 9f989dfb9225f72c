"""Reading archives: bounded memory, and messages short enough to read."""

import io
import tracemalloc
import zipfile

import pytest

from data.archives import ZipSource, some
from tests.data.coco_archives import zip_bytes

MIB = 1 << 20


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
    # zipfile skips ahead 16 MiB at a time; the inner archive has 128.
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


def test_some_spells_out_five():
    assert some(["b", "a"]) == "a, b"
    assert some(map(str, range(9))) == "0, 1, 2, 3, 4 and 4 more"
