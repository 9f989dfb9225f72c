"""COCO's compressed run lengths, checked before pycocotools decodes them.

pycocotools believes what it is given: where run lengths end too early, which they do at
a NUL, it leaves memory as it was.
"""

from collections.abc import Sequence

import numpy as np

# Five bits each are more than any mask has pixels, and pycocotools shifts the sign of
# longer numbers too far.
_MAX_CHARACTERS = 6


def find_broken(masks: Sequence[bytes], size: tuple[int, int]) -> int | None:
    """Returns the index of a mask whose run lengths aren't those of (height, width).

    It is None where all are. The format is pycocotools' own (maskApi.c, rleFrString):
    five bits a character, the lowest first; from the third run on, the difference to
    the last but one.
    """
    if not masks:
        return None
    if not all(masks):
        return list(masks).index(b"")
    mask_ends = np.cumsum([len(counts) for counts in masks])

    def mask_at(characters: np.ndarray) -> int:
        return int(np.searchsorted(mask_ends, characters[0], side="right"))

    # Below "0" they wrap around to large numbers.
    characters = np.frombuffer(b"".join(masks), np.uint8) - np.uint8(48)
    wrong = np.flatnonzero(characters >= 64)
    if wrong.size:
        return mask_at(wrong)
    goes_on = characters >= 32
    cut = np.flatnonzero(goes_on[mask_ends - 1])
    if cut.size:
        return int(cut[0])
    ends = np.flatnonzero(~goes_on)
    starts = np.concatenate([[0], ends + 1])
    lengths = np.diff(starts)
    long = np.flatnonzero(lengths > _MAX_CHARACTERS)
    if long.size:
        return mask_at(starts[long])
    shifts = 5 * (np.arange(len(characters)) - starts[:-1].repeat(lengths))
    runs = np.add.reduceat((characters & 31).astype(np.int64) << shifts, starts[:-1])
    runs -= np.where(characters[ends] & 16, 1 << 5 * lengths, 0)
    first_runs = np.searchsorted(starts, mask_ends)
    for mask, own in enumerate(np.split(runs, first_runs[:-1])):
        own[1::2] = own[1::2].cumsum()
        own[2::2] = own[2::2].cumsum()
        if own.min() < 0 or own.sum() != size[0] * size[1]:
            return mask
    return None
