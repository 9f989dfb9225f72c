"""A TensorBoard event file that is written when asked to, by nothing in the background.

tensorboardX's SummaryWriter queues events for a thread: flushing it leaves out what the
thread hasn't taken yet, and once the disk is full the thread ends and the queue blocks.
"""

import os
import socket
import tempfile
import time
from typing import Any

import numpy as np
from etils import epath
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter, directory_check

# Made at run time: no type checker knows them.
_Event: Any = event_pb2.Event  # pyright: ignore
_SessionLog: Any = event_pb2.SessionLog  # pyright: ignore


class EventFile:
    """Scalars and pictures of the steps after the one that a run begins or resumes at."""

    def __init__(self, folder: epath.PathLike, *, after_step: int):
        """Begins another file in the folder, which is made if it is missing.

        Args:
          folder: holds one file for each time the run was started.
          after_step: of what older files say of later steps TensorBoard shows nothing.
        """
        self.folder = epath.Path(folder)
        # The time is in seconds, and one file must not replace another.
        now, host = int(time.time()), socket.gethostname()
        name = f"events.out.tfevents.{now}.{host}.after_{after_step:08d}"
        self._bucket = self._folder_here = None
        here = str(self.folder)
        if "://" in here:
            # A file in a bucket is written whole: this one, each time it has grown.
            self._bucket = self.folder / name
            self._folder_here = tempfile.TemporaryDirectory()
            here = self._folder_here.name
        directory_check(here)
        self._path = os.path.join(here, name)
        self._writer = RecordWriter(self._path)
        self._has_news = False
        self._write(_Event(file_version="brain.Event:2"), 0)
        start = _SessionLog(status=_SessionLog.START)
        self._write(_Event(session_log=start), after_step + 1)

    def scalar(self, step: int, name: str, value: float) -> None:
        """Adds a number, which must be finite."""
        self._write(_Event(summary=summary.scalar(name, value)), step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Adds a picture, uint8 [H, W, 3]."""
        self._write(
            _Event(summary=summary.image(name, picture, dataformats="HWC")), step
        )

    def flush(self) -> None:
        """Returns when all that was added is on the disk, or in the bucket."""
        if not self._has_news:
            return
        self._has_news = False
        self._writer.flush()
        if self._bucket is not None:
            self._bucket.write_bytes(epath.Path(self._path).read_bytes())

    def close(self) -> None:
        """Flushes and closes the file."""
        self.flush()
        self._writer.close()
        if self._folder_here is not None:
            self._folder_here.cleanup()

    def _write(self, event: Any, step: int) -> None:
        event.wall_time = time.time()
        event.step = step
        self._writer.write(event.SerializeToString())
        self._has_news = True
