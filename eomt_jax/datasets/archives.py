"""Published archives: found, opened, and checked to be what they should be."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

from etils import epath

from eomt_jax.datasets.sources import Source, open_archive, some


@dataclasses.dataclass(frozen=True)
class Archive:
    """One file as its publisher offers it.

    Attributes:
      name: file name.
      url: where to download it.
      size: its size in words; empty where nobody says.
      members: folders ("train2017/") or files that the right archive holds.
      other_name: of the same files in another kind of archive, taken as well.
    """

    name: str
    url: str
    size: str
    members: tuple[str, ...]
    other_name: str = ""

    @property
    def source(self) -> str:
        """Returns where to get it, for messages."""
        return f"get it{self.size and f' ({self.size})'} from {self.url}"


def open_archives(
    folder: epath.PathLike | None,
    wanted: Sequence[Archive],
    *,
    dataset: str,
    stack: contextlib.ExitStack,
) -> Mapping[str, Source]:
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
    found = {a.name: _find(folder, a) for a in wanted}
    missing = [a for a in wanted if found[a.name] is None]
    if missing:
        lines = [
            f"  {a.name}{a.other_name and f' or {a.other_name}'}: {a.source}"
            for a in missing
        ]
        raise ValueError("\n".join([f"missing from {folder}:", *lines]))
    opened = {}
    for archive in wanted:
        path = cast(epath.Path, found[archive.name])
        source = stack.enter_context(open_archive(path, archive.source))
        _check_members(source, archive)
        opened[archive.name] = source
    return opened


def _find(folder: epath.Path, archive: Archive) -> epath.Path | None:
    names = [archive.name, *filter(None, [archive.other_name])]
    return next((folder / n for n in names if (folder / n).exists()), None)


def _check_members(opened: Source, archive: Archive) -> None:
    for member in archive.members:
        if not opened.names(member):
            holds = some(opened.names()) or "nothing"
            raise ValueError(
                f"{opened.name} is another archive under that name: it holds no "
                f"{member}, but {holds}; {archive.source}"
            )
