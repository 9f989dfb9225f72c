"""Opens zip archives after checking them for forged contents."""

import lzma
import struct
import zipfile
import zlib
from typing import Any

MAX_TABLE = 64 << 20  # bytes of the table of contents, some 500,000 names
# A member may unpack to this many bytes, or grow by this factor.
MAX_GROWN = 256 << 20
MAX_GROWTH = 200
_HEADER = 30  # bytes in front of a member's name
# zipfile raises errors of the modules that it uses too.
ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
)


def open_zip(stream: Any) -> zipfile.ZipFile:
    """Opens a file of bytes as a zip archive whose members share no name and no byte.

    Raises:
      zipfile.BadZipFile: it has no table of contents or one that is too long, two
        members of one name, members that share bytes, or one that unpacks to far more
        than is stored.
    """
    try:
        # ZipFile would read a table of any length, so its record is read first.
        found: Any = getattr(zipfile, "_EndRecData")(stream)  # noqa: B009
        if found and found[5] > MAX_TABLE:
            raise zipfile.BadZipFile(
                f"its table of contents has {found[5]:,} bytes, more than "
                f"{MAX_TABLE:,}; unpack it into a folder"
            )
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:
        raise
    except ERRORS as error:
        raise zipfile.BadZipFile(f"{type(error).__name__}: {error}") from error
    _check_members(archive)
    return archive


def _check_members(archive: zipfile.ZipFile) -> None:
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    names: set[str] = set()
    end, before = 0, ""
    for member in members:
        name = member.filename
        if name in names:
            raise zipfile.BadZipFile(f"it has two files named {name[:200]}")
        names.add(name)
        if member.header_offset < end:
            raise zipfile.BadZipFile(
                f"{before[:200]} and {name[:200]} share bytes of it"
            )
        end = member.header_offset + _HEADER + len(name) + member.compress_size
        before = name
        if member.file_size > max(MAX_GROWN, MAX_GROWTH * member.compress_size):
            raise zipfile.BadZipFile(
                f"{name[:200]} grows from {member.compress_size:,} to "
                f"{member.file_size:,} bytes"
            )
    if end > archive.start_dir:
        raise zipfile.BadZipFile(f"{before[:200]} reaches into its table of contents")
