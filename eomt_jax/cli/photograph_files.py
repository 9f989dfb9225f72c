"""Finds the photographs that a user names, and names the files of their results."""

import collections
import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from eomt_jax.cli.result_files import unfinished_file
from eomt_jax.file_names import MAX_BYTES
from eomt_jax.predict.photographs import PICTURE_ENDINGS
from eomt_jax.predict.result import DESCRIPTION
from eomt_jax.regular_files import check_regular

_MAGIC = ("*", "?", "[")
_JSON_BEGIN = f'{{\n "info": {{\n  "description": "{DESCRIPTION}"'.encode()
"""Beginning of the JSON files that eomt-predict writes."""


def find_photographs(
    arguments: Sequence[str], *, leave_out: epath.Path
) -> dict[epath.Path, str]:
    """Returns the photographs that files, folders and patterns name, each once.

    A folder stands for all pictures in it and below, except for hidden ones.

    Args:
      arguments: paths; patterns such as "photos/*.jpg" or "photos/**/*.jpg".
      leave_out: the folder that is written; its pictures are left out if it lies below
        one that is read.

    Returns:
      Each photograph, and its path below the folder or the pattern that it comes from,
      without its ending.

    Raises:
      ValueError: an argument names no photograph.
    """
    found: dict[epath.Path, str] = {}
    left_out = _resolved(leave_out)
    places: set[epath.Path] = set()
    for argument in arguments:
        root, paths = _expand(argument)
        pictures = paths
        if _resolved(root) in left_out.parents:
            pictures = [p for p in paths if left_out not in _resolved(p).parents]
        if not pictures:
            raise ValueError(
                f"{argument} holds no photograph: there is no file in it that ends in "
                + ", ".join(PICTURE_ENDINGS)
            )
        for path in pictures:
            name = path.relative_to(root).with_suffix("")
            if path.absolute() not in places:
                places.add(path.absolute())
                found[path] = str(name)
    return found


def output_names(photographs: dict[epath.Path, str]) -> dict[epath.Path, str]:
    """Returns a different name for each photograph's files.

    Usually it is the photograph's name. If two have the same, as a.jpg and a.png, or
    x/a.jpg and y/a.jpg, the ending is added and, if necessary, a number. A name that is
    too long for a file with another ending is cut, and a hash of it is added.
    """
    photographs = {path: _cut(name) for path, name in photographs.items()}
    count = collections.Counter(name.lower() for name in photographs.values())
    names: dict[epath.Path, str] = {}
    taken: set[str] = set()
    for path, name in photographs.items():
        if count[name.lower()] > 1:
            name = f"{name}_{path.suffix[1:].lower()}"
        free = next(n for n in _candidates(name) if n.lower() not in taken)
        taken.add(free.lower())
        names[path] = free
    return names


def check_outputs(
    names: dict[epath.Path, str], out: epath.Path, endings: Sequence[str]
) -> None:
    """Raises an error if results would replace a photograph or an annotation.

    Args:
      names: each photograph, and its name below `out`.
      out: the folder that is written.
      endings: endings of the files of each photograph.

    Raises:
      ValueError: a file would be replaced; the message names it.
    """
    inputs = {path.resolve() for path in names}
    writers: dict[str, epath.Path] = {}
    for path, name in names.items():
        for ending in endings:
            file = out / f"{name}{ending}"
            first = writers.setdefault(str(file).lower(), path)
            if first is not path:
                raise ValueError(
                    f"{first} and {path} would both be written to {file}; segment one "
                    "after the other, with another --out"
                )
            if file.resolve() in inputs:
                raise ValueError(
                    f"{out} holds the photograph {file}, which the result of {path} "
                    "would replace; give another folder with --out"
                )
        file = out / f"{name}.json"
        is_beside = file.parent.resolve() == path.parent.resolve()
        if is_beside and file.exists() and not _is_ours(file):
            raise ValueError(
                f"{file} is no result of eomt-predict, which would replace it; give "
                "another folder with --out"
            )


def check_writable(folder: epath.Path) -> None:
    """Makes a folder and writes to it, so that errors come before minutes of work.

    Raises:
      ValueError: nothing can be written into it.
    """
    probe = unfinished_file(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"can't write into {folder} ({error.strerror})") from error


@contextlib.contextmanager
def no_empty_folder(folder: epath.Path) -> Iterator[None]:
    """Removes a folder and its parents that the block made and left empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            try:
                path.rmdir()
            except (OSError, ValueError):  # It is not empty, or is gone.
                break


def _is_ours(file: epath.Path) -> bool:
    check_regular(file)
    with file.open("rb") as opened:
        return opened.read(len(_JSON_BEGIN)) == _JSON_BEGIN


def _cut(name: str) -> str:
    """Returns a path with a last part that leaves space for endings and numbers."""
    folder, last = os.path.split(name)
    if len(os.fsencode(last)) <= MAX_BYTES:
        return name
    mark = "_" + hashlib.sha256(os.fsencode(last)).hexdigest()[:8]
    while len(os.fsencode(last + mark)) > MAX_BYTES:
        last = last[:-1]
    return os.path.join(folder, last + mark)


def _candidates(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _expand(argument: str) -> tuple[epath.Path, list[epath.Path]]:
    """Returns the folder that names are relative to, and the files."""
    path = epath.Path(argument).expanduser()
    if path.is_dir():
        return path, sorted(_pictures(_walk(path)))
    if path.exists() or not any(sign in argument for sign in _MAGIC):
        # A missing file is reported with the damaged ones, as one that can't be read.
        return path.parent, [path]
    parts = path.parts
    first = next(i for i, part in enumerate(parts) if any(s in part for s in _MAGIC))
    root = epath.Path(*parts[:first]) if first else epath.Path(".")
    pattern = os.path.join(*parts[first:])
    if "://" not in argument:  # where "**" costs no requests
        root = pathlib.Path(root)
    matches = map(epath.Path, root.glob(pattern))
    files = (match for match in matches if not match.is_dir())
    return epath.Path(root), sorted(_pictures(files))


def _pictures(paths: Iterable[epath.Path]) -> Iterator[epath.Path]:
    return (
        path
        for path in paths
        if path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith(".")
    )


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if not path.is_dir():
            yield path
        # Links to folders are left out, since they may lead back here.
        elif not path.name.startswith(".") and not os.path.islink(path):
            yield from _walk(path)


def _resolved(path: epath.Path) -> epath.Path:
    return path.expanduser().resolve()
