"""Makes safe file names from names in data, such as image ids, datasets and shards.

All code that writes or opens a file of such a name gets its path from `path_below`.
Folders that a user names are checked by `check_utf8` where that matters.
"""

import os
import unicodedata

from etils import epath

# File systems take 255 bytes, and an unfinished file has a longer name.
MAX_BYTES = 235


def path_below(
    folder: epath.PathLike, name: str, *, what: str, ending: str = ""
) -> epath.Path:
    """Returns the path of a file inside `folder` that is called `name`.

    Parts of the name between slashes are folders. Different names give different paths.

    Args:
      folder: a local folder or a bucket.
      name: a name from data, not checked.
      what: the kind of name, for the error's text, such as "image id".
      ending: ending of the file, such as ".png".

    Raises:
      ValueError: the name would leave the folder, or no file can have it.
    """
    check_name(name, what=what)
    return epath.Path(folder).joinpath(*f"{name}{ending}".split("/"))


def check_utf8(folder: epath.PathLike) -> None:
    """Raises ValueError if a path isn't UTF-8, as orbax and ArrayRecord want theirs."""
    try:
        os.fspath(folder).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{os.fspath(folder)!a} is not UTF-8, and the libraries that write there want "
            "it to be: name another folder"
        ) from error


def check_name(name: str, *, what: str) -> None:
    """Raises ValueError if no file can have the name, see `path_below`."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        problem = "its parts between slashes must be names, not empty, . or .."
    elif any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name):
        problem = "it holds a control character, or one that is no text"
    elif max(len(part.encode()) for part in parts) > MAX_BYTES:
        problem = f"a part of it has more than {MAX_BYTES} bytes"
    else:
        return
    short = name if len(name) <= 80 else f"{name[:77]}..."
    raise ValueError(f"the {what} {short!a} can't name a file: {problem}; rename it")
