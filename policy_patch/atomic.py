"""Writing a file so that it is complete or not there: a kill, a full disk or a crash never leaves half of it.

Only bytes to a path; what they mean, and what is told to the user, is the business of the caller.
"""

import os
from pathlib import Path

PENDING = ".pending"  # suffix of a file that is written but not yet in its place


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` beside `path`, down to the disk, and move it into place.

    Raises:
        OSError: what was at `path` before is still there, and nothing is left beside it.
    """
    path = Path(path)
    pending = write_pending(path, content)
    try:
        os.replace(pending, path)
    except OSError:
        pending.unlink(missing_ok=True)
        raise


def write_pending(path: Path, content: bytes) -> Path:
    """Write `content` beside `path`, down to the disk, and return where; `os.replace` moves it into place.

    Raises:
        OSError: nothing is left beside `path`.
    """
    pending = path.with_name(path.name + PENDING)
    try:
        with open(pending, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        pending.unlink(missing_ok=True)
        raise
    return pending
