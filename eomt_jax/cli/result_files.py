"""Writes the files of a photograph's results, beside other processes that do the same."""

import contextlib
import fcntl
import io
import json
import os
import uuid
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image

from eomt_jax.pictures.confidence import draw_confidence
from eomt_jax.postprocess.confidence import confidence_picture
from eomt_jax.predict.result import Result

_LONG_SIDES = 1024, 2048
"""Limits of an overlay's long side, which otherwise equals the photograph's.

Outlines and names are drawn after enlarging, so small photographs gain by it; large
overlays only take time."""


def write_result(
    result: Result,
    path: epath.Path,
    *,
    overlay: bool = True,
    masks: bool = False,
    long_side: int | None = None,
    explanation: Image.Image | None = None,
) -> None:
    """Draws and writes the files of one photograph, its confidences too if it has them.

    Args:
      result: the segments of a photograph.
      path: without the endings that the files get.
      overlay: whether the photograph with its segments is drawn.
      masks: whether a picture of the pixels' ids is written.
      long_side: of the pictures in pixels; by default the photograph's, in _LONG_SIDES.
      explanation: picture of how the segments were found, if it is wanted.
    """
    files: dict[str, bytes] = {}
    own_side = min(max(_LONG_SIDES[0], *result.size), _LONG_SIDES[1])
    if overlay:
        picture = result.draw(long_side=long_side or own_side)
        files[".png"] = _encode_png(picture)
    if masks:
        files[".masks.png"] = _encode_png(result.mask_picture())
    if explanation is not None:
        files[".explain.png"] = _encode_png(np.asarray(explanation))
    if result.confidence is not None:
        picture = draw_confidence(
            result.image, result.confidence, long_side=long_side or own_side
        )
        files[".confidence.png"] = _encode_png(picture)
        numbers = confidence_picture(result.confidence)
        files[".confidence16.png"] = _encode_png(numbers)
    text = json.dumps(result.to_coco(), indent=1, ensure_ascii=False)
    # A file name that isn't UTF-8 has signs that are no text; JSON escapes them so.
    files[".json"] = text.encode(errors="backslashreplace") + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, files)


def _encode_png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=3)
    return file.getvalue()


def write_whole(path: epath.Path, files: dict[str, bytes]) -> None:
    """Writes a photograph's files by ending: all whole, and of one process."""
    unfinished = {ending: unfinished_file(path.parent) for ending in files}
    try:
        for ending, content in files.items():
            unfinished[ending].write_bytes(content)
        with writing_alone(path.parent):
            for ending in files:
                unfinished[ending].replace(path.parent / f"{path.name}{ending}")
    except BaseException:
        for file in unfinished.values():
            file.unlink(missing_ok=True)
        raise


def unfinished_file(folder: epath.Path) -> epath.Path:
    """Returns a path in `folder` that no other process or thread has."""
    return folder / f".{uuid.uuid4().hex}.unfinished"


@contextlib.contextmanager
def writing_alone(folder: epath.Path) -> Iterator[None]:
    """Makes other processes that write results into `folder` wait for the block.

    It does nothing for folders in buckets and file systems without locks.
    """
    with contextlib.ExitStack() as stack:
        if "://" not in str(folder):
            opened = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, opened)  # which unlocks it
            with contextlib.suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield
