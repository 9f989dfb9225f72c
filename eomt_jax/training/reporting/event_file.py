"""A TensorBoard event file that is written when asked to, by nothing in the background.

The format is written here because the libraries that know it import PyTorch or
TensorFlow where they are installed, which would take memory beside JAX on the same GPU.
A file is a row of records: length, its checksum, the event, its checksum. Events are
protocol buffers, tensorboard@2.20.0:tensorboard/compat/proto/event.proto and
summary.proto, whose field numbers stand beside the fields below.
"""

import io
import os
import socket
import struct
import tempfile
import time

import numpy as np
import PIL.Image
from etils import epath

_START = 1  # SessionLog.START
_RGB = 3  # Image.colorspace


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
        os.makedirs(here, exist_ok=True)
        self._path = os.path.join(here, name)
        self._news: list[bytes] = []
        self._write(0, _text(3, "brain.Event:2"))  # file_version
        self._write(after_step + 1, _message(7, _integer(1, _START)))  # session_log

    def scalar(self, step: int, name: str, value: float) -> None:
        """Adds a number, which must be finite."""
        self._summary(step, name, _float(2, value))  # simple_value

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Adds a picture, uint8 [H, W, 3]."""
        height, width, _ = picture.shape
        png = io.BytesIO()
        PIL.Image.fromarray(picture).save(png, "PNG")
        # height, width, colorspace, encoded_image_string
        fields = _integer(1, height), _integer(2, width), _integer(3, _RGB)
        image = _message(4, *fields, _message(4, png.getvalue()))
        self._summary(step, name, image)

    def flush(self) -> None:
        """Returns when all that was added is on the disk, or in the bucket."""
        if not self._news:
            return
        with open(self._path, "ab") as file:
            file.write(b"".join(self._news))
        self._news = []
        if self._bucket is not None:
            self._bucket.write_bytes(epath.Path(self._path).read_bytes())

    def close(self) -> None:
        """Flushes, and removes what a bucket's file was collected in."""
        self.flush()
        if self._folder_here is not None:
            self._folder_here.cleanup()

    def _summary(self, step: int, name: str, value: bytes) -> None:
        # summary, value, tag
        self._write(step, _message(5, _message(1, _text(1, name), value)))

    def _write(self, step: int, content: bytes) -> None:
        # wall_time, step
        event = _double(1, time.time()) + _integer(2, step) + content
        length = struct.pack("<Q", len(event))
        for part in (length, event):
            self._news += part, struct.pack("<I", _masked_checksum(part))


def _varint(value: int) -> bytes:
    """Encodes seven bits a byte, the lowest first; the eighth says that more follow."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _integer(number: int, value: int) -> bytes:
    return _field(number, 0) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _field(number, 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    return _field(number, 5) + struct.pack("<f", value)


def _message(number: int, *fields: bytes) -> bytes:
    """Encodes a message of its encoded fields; bytes are encoded in the same way."""
    content = b"".join(fields)
    return _field(number, 2) + _varint(len(content)) + content


def _text(number: int, value: str) -> bytes:
    return _message(number, value.encode())


def _remainder(byte: int) -> int:
    """Returns the CRC-32C of one byte, without the inversions before and after."""
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_REMAINDERS = [_remainder(byte) for byte in range(256)]


def _masked_checksum(data: bytes) -> int:
    """Returns the format's CRC-32C: rotated, and increased by a constant."""
    crc, remainders = 0xFFFFFFFF, _REMAINDERS
    for byte in data:
        crc = remainders[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
