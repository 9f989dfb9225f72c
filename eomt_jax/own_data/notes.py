"""Prints the library's warnings as notes, without the place in the code."""

import contextlib
import logging as python_logging
from collections.abc import Iterator

from absl import logging

from eomt_jax.training.reporting.logging import say


class _Notes(python_logging.Handler):
    def emit(self, record: python_logging.LogRecord) -> None:
        say(f"note: {record.getMessage()}")


@contextlib.contextmanager
def notes_in_lines() -> Iterator[None]:
    """Prints each warning that is logged inside as a line."""
    logger, notes = logging.get_absl_logger(), _Notes(python_logging.WARNING)
    propagates, level = logger.propagate, logging.get_verbosity()
    others = list(logger.handlers)
    logger.handlers[:] = [notes]
    logger.propagate = False
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers[:] = others
        logger.propagate = propagates
        logging.set_verbosity(level)
