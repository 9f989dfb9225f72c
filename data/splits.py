"""How a user's images become splits: by paths given for each, or at random."""

import hashlib
import re
from collections.abc import Iterable, Mapping

_NAMED = re.compile(r"([A-Za-z]\w*)=(.*)", re.DOTALL)
TRAIN, VALIDATION = "train", "validation"


def parse_split_paths(text: str) -> Mapping[str, str]:
    """Paths by split from "train=PATH,validation=PATH", or {"": PATH} from one path.

    Raises:
      ValueError: no path, a split without one or named twice, or neither "train" nor
        "validation" among several.
    """
    parts = re.split(r",(?=[A-Za-z]\w*=)", text.strip())
    named = [_NAMED.fullmatch(part) for part in parts]
    paths = {match[1]: match[2].strip() for match in named if match}
    if not paths:
        paths = {"": text.strip()}
    if not all(paths.values()) or len(paths) < len(parts):
        raise ValueError(
            f"{text!r} is neither PATH nor {TRAIN}=PATH,{VALIDATION}=PATH with each "
            "split once"
        )
    unknown = set(paths) - {"", TRAIN, VALIDATION}
    if unknown:
        raise ValueError(
            f"{text!r} names the split {min(unknown)!r}; there are {TRAIN} and "
            f"{VALIDATION}"
        )
    return paths


def random_split(
    names: Iterable[str], *, validation: float, seed: int
) -> dict[str, list[str]]:
    """Divides names at random, a function of each name and the seed.

    An image that is added later moves few others from one split to the other.

    Args:
      names: of the images, without duplicates.
      validation: share of the images that are set aside, in (0, 1).
      seed: another one draws another split.

    Returns:
      Sorted names by split; neither split is empty.

    Raises:
      ValueError: fewer than two names, or a share that isn't one.
    """
    drawn = sorted(names, key=lambda name: _draw(name, seed))
    if len(drawn) < 2:
        raise ValueError(
            f"{len(drawn)} image can't be split into {TRAIN} and {VALIDATION}: give "
            "two or more"
        )
    if not 0 < validation < 1:
        raise ValueError(
            f"validation={validation} is no share of the images: give one between 0 "
            "and 1, such as 0.1"
        )
    number = min(max(round(validation * len(drawn)), 1), len(drawn) - 1)
    return {TRAIN: sorted(drawn[number:]), VALIDATION: sorted(drawn[:number])}


def _draw(name: str, seed: int) -> bytes:
    """Hashes stay what they are in other versions of NumPy and Python."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
