"""Files by name, of an archive or a folder, read as they are and never unpacked.

Every failure is a ValueError with the name of the archive or file, what is wrong with
it, and what to do; of a published archive, where to get it.
"""

import abc
import contextlib
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from eomt_jax import regular_files, zip_archives

_SHOWN = 5  # names spelt out in a message about many
_SHOWN_LETTERS = 200  # of each
MAX_FILE = 1 << 30  # bytes of one file
MAX_NAMES = 500_000  # files of a tar archive
_DAMAGED = (*zip_archives.ERRORS, tarfile.TarError)


class Source(abc.ABC):
    """Files by name: of a zip or tar archive, or of a folder.

    Hidden files are none: those whose name, or whose folder's, has a leading dot, and
    what macOS adds to its archives.

    Attributes:
      name: of the archive or folder, for messages.
      source: where to get it, or what to do about it, for messages.
    """

    def __init__(self, name: str, source: str, members: Mapping[str, Any]):
        self.name = name
        self.source = source
        self._members = {n: m for n, m in members.items() if not _is_hidden(n)}

    def __contains__(self, member: str) -> bool:
        return member in self._members

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def names(self, folder: str = "") -> list[str]:
        """Returns the names of the files in `folder`, without it."""
        return [n[len(folder) :] for n in self._members if n.startswith(folder)]

    def read(self, member: str) -> bytes:
        """Returns the bytes of `member`; ValueError names it where they are damaged."""
        with self._named_errors(member):
            size = self.size(member)
            if size > MAX_FILE:
                raise ValueError(f"{size:,} bytes, more than {MAX_FILE:,}")
            with self._open(member) as stream:
                return stream.read()

    def inner(self, member: str) -> "ZipSource":
        """Opens the zip archive that is `member`.

        Its bytes are read forward through the outer archive, so memory stays at a
        buffer's size; but going back may mean reading it from its start, so take the
        members of an inner archive in `order` of their place.
        """
        with self._named_errors(member):
            stream = self._open(member)
        return ZipSource(stream, f"{self.name}/{member}", self.source)

    @abc.abstractmethod
    def order(self, member: str) -> int:
        """Returns the place of `member` among the others."""

    @abc.abstractmethod
    def size(self, member: str) -> int:
        """Returns how many bytes `member` has, without reading it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the archive, so that nothing can be read any more."""

    @abc.abstractmethod
    def _open(self, member: str) -> Any:
        """Opens `member`."""

    @contextlib.contextmanager
    def _named_errors(self, member: str):
        try:
            yield
        except _DAMAGED as error:
            # zipfile calls what is encrypted or compressed otherwise a RuntimeError.
            raise ValueError(
                f"{member} in {self.name} is damaged or can't be read ({error})"
                f"{self.source and '; '}{self.source}"
            ) from error


class ZipSource(Source):
    """Members of a zip archive."""

    def __init__(self, stream: Any, name: str, source: str):
        """Reads the table of contents of `stream`; ValueError where it has none."""
        self._stream = stream
        try:
            self._zip = zip_archives.open_zip(stream)
            _check_begins_at_zero(self._zip)
        except _DAMAGED as error:
            raise _not_an_archive(stream, "zip", name, source, error) from error
        members = {m.filename: m for m in self._zip.infolist() if not m.is_dir()}
        super().__init__(name, source, members)

    def order(self, member: str) -> int:
        return self._members[member].header_offset

    def size(self, member: str) -> int:
        return self._members[member].file_size

    def close(self) -> None:
        self._zip.close()
        self._stream.close()

    def _open(self, member: str) -> Any:
        return self._zip.open(self._members[member])


class TarSource(Source):
    """Members of a tar archive that isn't compressed."""

    def __init__(self, stream: Any, name: str, source: str):
        """Reads all headers of `stream`; ValueError unless they lead to its end."""
        self._stream = stream
        try:
            self._tar = tarfile.TarFile(fileobj=stream)
            files = _tar_files(self._tar)
            _check_end_is_marked(stream, self._tar.offset)
        except _DAMAGED as error:
            raise _not_an_archive(stream, "tar", name, source, error) from error
        super().__init__(name, source, files)

    def order(self, member: str) -> int:
        return self._members[member].offset_data

    def size(self, member: str) -> int:
        return self._members[member].size

    def close(self) -> None:
        self._tar.close()
        self._stream.close()

    def _open(self, member: str) -> Any:
        return self._tar.extractfile(self._members[member])


class FolderSource(Source):
    """Files of a folder and of those in it, in the order of their names."""

    def __init__(self, folder: epath.Path):
        files = {f.relative_to(folder).as_posix(): f for f in _files_below(folder)}
        self._order = {name: i for i, name in enumerate(sorted(files))}
        super().__init__(
            os.fspath(folder),
            "look into the folder",
            {n: files[n] for n in self._order},
        )

    def order(self, member: str) -> int:
        return self._order[member]

    def size(self, member: str) -> int:
        return self._members[member].stat().length

    def close(self) -> None:
        pass

    def _open(self, member: str) -> Any:
        regular_files.check_regular(self._members[member])
        return self._members[member].open("rb")


_SOURCES = {".zip": ZipSource, ".tar": TarSource}
ARCHIVE_ENDINGS = tuple(_SOURCES)


def open_source(path: epath.PathLike) -> Source:
    """Opens a user's folder, zip or tar archive; the caller closes it.

    Raises:
      ValueError: there is nothing at `path`, nothing in it, or a file of another kind.
    """
    path = epath.Path(path).expanduser()
    if path.is_dir():
        opened = FolderSource(path)
    elif path.exists():
        opened = open_archive(path, "make the archive again")
    else:
        raise ValueError(f"{path} is neither a folder nor a file")
    if not opened.names():
        opened.close()
        raise ValueError(f"{path} holds no file")
    return opened


def open_archive(path: epath.Path, source: str) -> Source:
    """Opens the zip or tar archive at `path`; `source` says where to get it.

    Raises:
      ValueError: the file is no archive of the kind that its name says.
    """
    kind = path.suffix.lower()
    if kind not in _SOURCES:
        raise ValueError(
            f"{path} is neither a folder nor one of {', '.join(_SOURCES)}, by its name"
        )
    regular_files.check_regular(path)
    stream = path.open("rb")
    return _SOURCES[kind](stream, path.name, source)


def _not_an_archive(
    stream: Any, kind: str, name: str, source: str, error: Exception
) -> ValueError:
    """Closes the stream; says what it is instead."""
    size = stream.seek(0, os.SEEK_END)
    stream.close()
    return ValueError(
        f"{name} is truncated or no {kind} archive that can be read ({error}; it has "
        f"{size:,} bytes); {source}"
    )


def _check_begins_at_zero(archive: zipfile.ZipFile) -> None:
    """Raises BadZipFile for an archive that was cut inside a nested one.

    zipfile may take the nested one's table of contents for the whole, and what comes
    before it for foreign bytes.
    """
    offsets = [member.header_offset for member in archive.infolist()]
    if offsets and min(offsets) > 0:
        raise zipfile.BadZipFile(f"its first file begins at byte {min(offsets):,}")


def _tar_files(archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Returns the files of a tar archive; of two of one name the archive is refused."""
    files: dict[str, tarfile.TarInfo] = {}
    for number, member in enumerate(archive):
        name = member.name.removeprefix("./")
        if number >= MAX_NAMES:
            raise tarfile.ReadError(
                f"it has more than {MAX_NAMES:,} files; unpack it into a folder"
            )
        if member.issparse():
            raise tarfile.ReadError(f"{name[:200]} is stored with holes")
        if name in files:
            raise tarfile.ReadError(f"it has two files named {name[:200]}")
        if member.isfile():
            files[name] = member
    return files


def _check_end_is_marked(stream: Any, end: int) -> None:
    """Raises tarfile.ReadError unless the archive's end is marked.

    tarfile takes a file that stops between two members for whole.
    """
    stream.seek(end)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end is marked at byte {end:,}")


def _files_below(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def _is_hidden(name: str) -> bool:
    parts = name.removeprefix("./").split("/")
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def some(names: Iterable[str]) -> str:
    """Returns the first few names, and how many more there are."""
    names = sorted(names)
    more = len(names) - _SHOWN
    shown = ", ".join(shorten(name, _SHOWN_LETTERS) for name in names[:_SHOWN])
    return shown + (f" and {more:,} more" if more > 0 else "")


def shorten(text: str, length: int) -> str:
    """Returns the text, or its beginning where it is longer.

    Files can hold names of any length.
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"
