"""Standard output that takes the name of any file."""

import io
import sys


def accept_any_name() -> None:
    """Lets `print` escape what isn't text, as standard error does, instead of failing.

    Linux allows files whose names aren't UTF-8.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
