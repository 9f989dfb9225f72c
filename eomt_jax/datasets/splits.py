"""Divides a user's images into splits: by paths given for each, or at random."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping

from eomt_jax.datasets.sources import some

_NAMED = re.compile(r"([A-Za-z]\w*)=(.*)", re.DOTALL | re.ASCII)
TRAIN, VALIDATION, TEST = "train", "validation", "test"
# Names that tools give the split that is called validation here.
_OTHER_NAMES = {"val": VALIDATION, "valid": VALIDATION}
_RESERVED = "all"  # TFDS reads it as every split at once
Share = float | str | None  # None is the default
DEFAULT_SHARE = 0.1  # of the photographs for validation, where nothing else is said


def split_name(text: str) -> str:
    """Returns the name of a split that a tool calls `text`: Train, valid, "Set 2"."""
    name = re.sub(r"\W+", "_", text.strip().lower(), flags=re.ASCII)
    name = name if re.match("[a-z]", name) else f"split_{name}"
    return _OTHER_NAMES.get(name, name)


def parse_split_paths(text: str) -> Mapping[str, str]:
    """Returns paths by split from "train=PATH,test=PATH", or {"": PATH} from one path.

    Splits have any names; val and valid are read as validation.

    Raises:
      ValueError: no path, a split without one or named twice, or a name that can't be
        a split's.
    """
    parts = re.split(r",(?=[A-Za-z]\w*=)", text.strip())
    named = [_NAMED.fullmatch(part) for part in parts]
    paths = {
        _OTHER_NAMES.get(match[1], match[1]): match[2].strip()
        for match in named
        if match
    }
    if not paths:
        paths = {"": text.strip()}
    if not all(paths.values()) or len(paths) < len(parts):
        raise ValueError(
            f"{text!r} is neither PATH nor {TRAIN}=PATH,{VALIDATION}=PATH,{TEST}=PATH "
            "with each split once"
        )
    if _RESERVED in paths:
        raise ValueError(
            f"{text!r} names a split {_RESERVED!r}, a name that stands for all splits: "
            "choose another"
        )
    return paths


def draw_splits(
    named: Mapping[str, Iterable[str]],
    *,
    validation: Share,
    test: Share,
    seed: int,
    stays_in_train: Collection[str] = (),
) -> dict[str, list[str]]:
    """Returns names by split, with those that are drawn at random from the training's.

    Args:
      named: names by split; "" are those of a single path, training's but for what is
        drawn from them.
      validation: share to draw, in [0, 1); None draws DEFAULT_SHARE from a single path
        and nothing from named splits.
      test: share to draw, in [0, 1); None draws nothing.
      seed: see random_split.
      stays_in_train: names that are not drawn.

    Raises:
      ValueError: a share of a split that has a path of its own, or without a training
        split to draw from; see also random_split.
    """
    splits = {split or TRAIN: sorted(names) for split, names in named.items()}
    if validation is None:
        validation = DEFAULT_SHARE if "" in named else 0
    shares = {
        split: _share(split, value)
        for split, value in ((VALIDATION, validation), (TEST, test or 0))
    }
    shares = {split: share for split, share in shares.items() if share}
    for split in shares:
        if split in splits:
            raise ValueError(
                f"--{split}={shares[split]} asks to draw a split that has paths of its "
                "own: leave one of the two out"
            )
        if TRAIN not in splits:
            raise ValueError(
                f"--{split}={shares[split]} is drawn from {TRAIN}, and there is only "
                f"{', '.join(splits)}"
            )
    if not shares:
        return splits
    stays = set(stays_in_train)
    drawn = random_split(
        [name for name in splits[TRAIN] if name not in stays], shares=shares, seed=seed
    )
    drawn[TRAIN] = sorted({*drawn[TRAIN], *(stays & set(splits[TRAIN]))})
    return {**splits, **drawn}


def random_split(
    names: Iterable[str], *, shares: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """Divides names at random, a function of each name and the seed.

    An image that is added later moves few others from one split to the other.

    Args:
      names: of the images, without duplicates.
      shares: parts of the images that are set aside, by split, in (0, 1) and together
        below 1; what they leave is for training.
      seed: another one draws another split.

    Returns:
      Sorted names by split, training first; no split is empty.

    Raises:
      ValueError: fewer names than splits, or shares that leave nothing.
    """
    drawn = sorted(names, key=lambda name: _draw(name, seed))
    if len(drawn) <= len(shares):
        raise ValueError(
            f"{len(drawn)} image{'s' * (len(drawn) != 1)} can't be split into "
            f"{', '.join([TRAIN, *shares])}: give {len(shares) + 1} or more"
        )
    if sum(shares.values()) >= 1:
        asked = " and ".join(f"--{split}={share}" for split, share in shares.items())
        raise ValueError(f"{asked} leave nothing to train on: ask for less")
    splits, start = {}, 0
    for i, (split, share) in enumerate(shares.items()):
        most = len(drawn) - start - (len(shares) - i)  # one stays for each split left
        number = min(max(round(share * len(drawn)), 1), most)
        splits[split] = sorted(drawn[start : start + number])
        start += number
    return {TRAIN: sorted(drawn[start:]), **splits}


def check_disjoint(splits: Mapping[str, Iterable[str]]) -> None:
    """Raises ValueError where two splits share names."""
    seen: dict[str, str] = {}
    for split, names in splits.items():
        shared = {name for name in names if name in seen}
        if shared:
            other = seen[min(shared)]
            raise ValueError(
                f"{other} and {split} share {len(shared):,}: {some(shared)}"
            )
        seen.update(dict.fromkeys(names, split))


def _share(split: str, value: float | str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(
            f"--{split}={value} is no share of the images: give one between 0 and 1, "
            "such as 0.1, or 0 for none"
        )
    return share


def _draw(name: str, seed: int) -> bytes:
    """Hashes stay what they are in other versions of NumPy and Python."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
