"""Shows the progress of a long command."""

import sys
import time


class Progress:
    """Updates a line on a terminal; elsewhere prints a line every half minute.

    tqdm would serve the terminal only: into a file it writes carriage returns instead
    of lines, and its speed would include the time of compiling.
    """

    def __init__(self):
        self._live = sys.stderr.isatty()
        self._next = 0.0

    def __call__(self, done: int, total: int, speed: float) -> None:
        """Shows images done, images in all, and images a second (0 is unknown)."""
        if not self._live and time.monotonic() < self._next and done < total:
            return
        self._next = time.monotonic() + 30
        line = f"{done}/{total} images" + (f", {speed:.1f} a second" if speed else "")
        end = "\n" if done >= total or not self._live else "  \r"
        print(line, end=end, file=sys.stderr, flush=True)
