"""How far a long command is."""

import sys
import time


class Progress:
    """A live line on a terminal; elsewhere a line every half minute."""

    def __init__(self):
        self._live = sys.stderr.isatty()
        self._next = 0.0

    def __call__(self, done: int, total: int, speed: float) -> None:
        """Tells of images done, of images in all, and images a second (0: unknown)."""
        if not self._live and time.monotonic() < self._next and done < total:
            return
        self._next = time.monotonic() + 30
        line = f"{done}/{total} images" + (f", {speed:.1f} a second" if speed else "")
        end = "\n" if done >= total or not self._live else "  \r"
        print(line, end=end, file=sys.stderr, flush=True)
