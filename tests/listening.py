"""Hear what a logger of the package says; `caplog` hears nothing of loggers that hand their records to nobody."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def listening(name: str, level: int | None = None) -> Iterator[list[str]]:
    """Give a list of what the logger says within the block, as `WARNING: text`; it has that `level` meanwhile."""
    texts: list[str] = []
    logger = logging.getLogger(name)
    handler, before = logging.Handler(), logger.level
    handler.emit = lambda record: texts.append(f"{record.levelname}: {record.getMessage()}")
    logger.addHandler(handler)
    if level is not None:
        logger.setLevel(level)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
