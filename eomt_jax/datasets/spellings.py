"""Finds a user's files by names that are spelt in another way.

Systems and tools write one name in several ways: with "\\" between folders, accents as
one character or two (NFC, NFD), letters large or small; and masks with something added
to their photographs' names.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

# Photographs by which an addition to the names of masks is looked for.
_NUM_PROBES = 3


def plain(name: str) -> str:
    """Returns a name in the form that all of its spellings share."""
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()


def last_part(name: str) -> str:
    """Returns the name without its folders, whichever separators they have."""
    return name.replace("\\", "/").rpartition("/")[2]


def by_spelling(names: Iterable[str]) -> dict[str, str | None]:
    """Returns names by a spelling that all share; None where two names share it."""
    found: dict[str, str | None] = {}
    for name in names:
        key = plain(name)
        found[key] = None if key in found else name
    return found


def match_names(wanted: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Returns which of the wanted names each of `names` stands for.

    Args:
      wanted: of photographs, with folders and without endings.
      names: of their masks, likewise.

    Returns:
      Wanted names by name: themselves, where both sides have them; else those that
      differ in their spelling; else, where most photographs have a mask whose name adds
      the same before and after theirs (0001_mask), those.
    """
    spellings = by_spelling(wanted)
    matched = {}
    for name in names:
        found = name if name in wanted else spellings.get(plain(name))
        if found is not None:
            matched[name] = found
    if not matched:
        matched = _match_with_addition(wanted, names)
    counts = Counter(matched.values())
    return {n: w for n, w in matched.items() if counts[w] == 1 or n == w}


def common_addition(wanted: Collection[str], names: Collection[str]) -> tuple[str, str]:
    """Returns the texts that most of `names` have before and after a wanted name.

    Both are empty where there is nothing, or no single answer.
    """
    there = set(names)
    probes = sorted(wanted, key=lambda name: (-len(name), name))[:_NUM_PROBES]
    candidates: set[tuple[str, str]] = set()
    for probe in probes:
        folder, slash, stem = probe.rpartition("/")
        for name in there:
            if name.rpartition("/")[0] == folder:
                added = name.removeprefix(folder + slash)
                candidates |= set(_additions(added, stem))
    hits = {
        (before, after): sum(_add(w, before, after) in there for w in wanted)
        for before, after in candidates
    }
    most = max(hits.values(), default=0)
    best = [addition for addition, number in hits.items() if number == most]
    return best[0] if 2 * most >= len(wanted) and len(best) == 1 else ("", "")


def _match_with_addition(
    wanted: Collection[str], names: Collection[str]
) -> Mapping[str, str]:
    meant = {plain(name): name for name in wanted}
    before, after = common_addition(meant, {plain(name) for name in names})
    if not before and not after:
        return {}
    by_name = {_add(key, before, after): name for key, name in meant.items()}
    return {n: by_name[plain(n)] for n in names if plain(n) in by_name}


def _additions(name: str, stem: str) -> Iterable[tuple[str, str]]:
    start = name.find(stem)
    while start >= 0:
        yield name[:start], name[start + len(stem) :]
        start = name.find(stem, start + 1)


def _add(name: str, before: str, after: str) -> str:
    folder, slash, stem = name.rpartition("/")
    return f"{folder}{slash}{before}{stem}{after}"
