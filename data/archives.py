"""Published archives, read as downloaded: opened, checked, and never unpacked.

Every check fails with the archive's name, what is wrong with it, and where to get it.
"""

import contextlib
import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO, Self, cast

from etils import epath

_SHOWN = 5  # names spelt out in a message about many


@dataclasses.dataclass(frozen=True)
class Archive:
    """One file as its publisher offers it.

    Attributes:
      name: file name.
      url: where to download it.
      size: its size in words.
      members: folders ("train2017/") or files that the right archive holds.
    """

    name: str
    url: str
    size: str
    members: tuple[str, ...]

    @property
    def source(self) -> str:
        """Where to get it, for messages."""
        return f"get it ({self.size}) from {self.url}"


class ZipSource:
    """Members of one zip archive by name.

    `inner` opens a zip inside the zip. Its bytes are read forward through the outer
    archive, so memory stays at a buffer's size; but going back means reading it from
    its start, so take the members of an inner archive in `order` of their place.
    """

    def __init__(self, stream: BinaryIO, name: str, source: str):
        """Reads the table of contents of `stream`; ValueError where it has none."""
        self.name = name
        self.source = source
        self._stream = stream
        try:
            self._zip = zipfile.ZipFile(stream)
            _check_begins_at_zero(self._zip)
        except (zipfile.BadZipFile, EOFError, zlib.error) as error:
            size = stream.seek(0, os.SEEK_END)
            stream.close()
            raise ValueError(
                f"{name} is truncated or no zip archive: its {size:,} bytes end "
                f"without a table of contents ({error}); {source}"
            ) from error
        self._members = {m.filename: m for m in self._zip.infolist() if not m.is_dir()}

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self._zip.close()
        self._stream.close()

    def names(self, folder: str = "") -> list[str]:
        """Names of the files in `folder`, without it."""
        return [n[len(folder) :] for n in self._members if n.startswith(folder)]

    def order(self, member: str) -> int:
        """Where in the archive `member` lies."""
        return self._members[member].header_offset

    def read(self, member: str) -> bytes:
        """Bytes of `member`; ValueError naming it where they are damaged."""
        with self._named_errors(member):
            return self._zip.read(self._members[member])

    def inner(self, member: str) -> "ZipSource":
        """The zip archive that is `member`."""
        with self._named_errors(member):
            stream = cast(BinaryIO, self._zip.open(self._members[member]))
            return ZipSource(stream, f"{self.name}/{member}", self.source)

    @contextlib.contextmanager
    def _named_errors(self, member: str):
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(
                f"{member} in {self.name} is damaged ({error}); {self.source}"
            ) from error


def open_archives(
    folder: epath.PathLike | None,
    wanted: Sequence[Archive],
    *,
    dataset: str,
    stack: contextlib.ExitStack,
) -> Mapping[str, ZipSource]:
    """Opens all archives of a dataset and checks that they are what they should be.

    Args:
      folder: where the archives lie; a local folder or a bucket.
      wanted: the archives, all of them needed.
      dataset: its name, for messages.
      stack: closes them.

    Returns:
      The open archives by file name.

    Raises:
      ValueError: no folder, or files that are missing, truncated, or another's.
    """
    if folder is None:
        raise ValueError(f"{dataset} is built from archives: pass --archives=DIR")
    folder = epath.Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"--archives={folder} is no folder")
    missing = [a for a in wanted if not (folder / a.name).exists()]
    if missing:
        lines = [f"  {archive.name}: {archive.source}" for archive in missing]
        raise ValueError("\n".join([f"missing from {folder}:", *lines]))
    opened = {}
    for archive in wanted:
        stream = cast(BinaryIO, (folder / archive.name).open("rb"))
        source = ZipSource(stream, archive.name, archive.source)
        opened[archive.name] = stack.enter_context(source)
        _check_members(source, archive)
    return opened


def _check_members(opened: ZipSource, archive: Archive) -> None:
    for member in archive.members:
        if not opened.names(member):
            holds = some(opened.names()) or "nothing"
            raise ValueError(
                f"{archive.name} is another archive under that name: it holds no "
                f"{member}, but {holds}; {archive.source}"
            )


def _check_begins_at_zero(archive: zipfile.ZipFile) -> None:
    """Of an archive cut inside a nested one, zipfile may take the nested one's table
    of contents for the whole, and its beginning for foreign bytes."""
    offsets = [member.header_offset for member in archive.infolist()]
    if offsets and min(offsets) > 0:
        raise zipfile.BadZipFile(f"its first file begins at byte {min(offsets):,}")


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = sorted(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
