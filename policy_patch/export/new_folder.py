"""Writes a folder completely or not at all: files go to a hidden folder beside it, which is renamed at the end.

What the files are is known to the caller. A single file is written by `policy_patch.files.atomic`.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policy_patch.errors import ExportError, PolicyPatchError


@contextmanager
def new_folder(output_dir: str | os.PathLike) -> Iterator[Path]:
    """Give a folder to write into; at the end of the block it becomes `output_dir`.

    After an error in the block nothing is left; after a kill a hidden folder whose name ends with `.pending`.

    Args:
        output_dir (`str` or `os.PathLike`):
            A folder that does not exist, or is empty.

    Raises:
        ExportError: `output_dir` is a file or holds files, or it cannot be written: no permission, a full disk.
    """
    target = Path(os.path.realpath(output_dir))  # a link stays a link to the folder
    pending = target.with_name(f".{target.name}.{secrets.token_hex(8)}.pending")
    try:
        check_new_folder(output_dir)
        pending.mkdir(parents=True)
        try:
            yield pending
            if target.exists():
                target.rmdir()  # empty; Windows renames to no existing folder
            os.replace(pending, target)
        except BaseException:
            shutil.rmtree(pending, ignore_errors=True)
            raise
    except PolicyPatchError:  # some are OSErrors, and say what is wrong
        raise
    except OSError as error:
        raise ExportError(
            f"Cannot write to `{output_dir}`: {error}. Nothing was left there; free some space or give another folder."
        ) from error


def check_new_folder(output_dir: str | os.PathLike) -> None:
    """Raise `ExportError` if there is something at `output_dir` already, apart from an empty folder."""
    target = Path(os.path.realpath(output_dir))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "holds files" if target.is_dir() else "is a file"
        raise ExportError(f"`{output_dir}` {what}; nothing there is overwritten. Give a new or an empty folder.")
