"""Places that a user names: folders and archives of pictures, and what is in them."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from eomt_jax.datasets.paired_files import MASK_ENDINGS
from eomt_jax.datasets.photographs import PICTURE_ENDINGS
from eomt_jax.datasets.sources import ARCHIVE_ENDINGS, open_source, some
from eomt_jax.datasets.splits import parse_split_paths

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A path, or several."""

WANTED = (
    "give the folder of photographs, and the folder of masks or a COCO JSON: "
    "eomt-train PHOTOS MASKS, or eomt-train PHOTOS instances.json"
)


@dataclasses.dataclass(frozen=True)
class Recognized:
    """Format of a user's files, with all that their builder needs.

    Attributes:
      format: one of datasets.prepare.FORMATS.
      task: what its annotations are for.
      options: of the format's builder.
      sentence: says it to the user.
      class_list: JSON of a class list that the builder needs and the user hasn't, or "".
    """

    format: str
    task: str
    options: dict[str, Any]
    sentence: str
    class_list: str = ""


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder or archive of pictures that the user names.

    Attributes:
      text: as given, a path or a path for each split.
      names: of the pictures in it.
      jsons: names of the JSONs in it.
    """

    text: str
    names: tuple[str, ...]
    jsons: tuple[str, ...]

    @property
    def has_only_pngs(self) -> bool:
        return all(name.lower().endswith(MASK_ENDINGS) for name in self.names)

    @property
    def has_pngs(self) -> bool:
        return any(name.lower().endswith(MASK_ENDINGS) for name in self.names)


def as_texts(paths: Paths) -> list[str]:
    """Returns the paths as a list of texts."""
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [os.fspath(path) for path in paths]


def look_into(text: str) -> Place:
    """Returns what a folder or archive, or that of each split, holds.

    Raises:
      ValueError: there is nothing, or no picture in it.
    """
    names, jsons = [], []
    for path in parse_split_paths(text).values():
        local = epath.Path(path).expanduser()
        if (
            local.exists()
            and not local.is_dir()
            and not path.lower().endswith(ARCHIVE_ENDINGS)
        ):
            raise ValueError(f"{path} is a file of another kind: {WANTED}")
        with open_source(path) as source:
            found = [n for n in source.names() if n.lower().endswith(PICTURE_ENDINGS)]
            listed = [n for n in source.names() if n.lower().endswith(".json")]
            if not found:
                raise ValueError(
                    f"{path} holds no photograph and no mask, but "
                    f"{some(source.names())}"
                )
        names += found
        jsons += listed
    return Place(text, tuple(names), tuple(jsons))
