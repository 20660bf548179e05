"""Which files of a patch a signature has to cover, and their hashes. This list counts, not one inside a signature.

A signature may say which files it leaves out. Here is said what none may leave out, and what none has to cover.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME
from policy_patch.errors import SignatureError
from policy_patch.files.atomic import PENDING
from policy_patch.files.folder_lock import LOCK_NAME
from policy_patch.patch.folder import TENSORS_NAME

LARGEST_SIGNATURE = 2**20  # bytes; ours have 2 kB, and 4 kB with certificates
REPORT_NAME = "evaluation.json"
RESULTS_FOLDER = ".eval_results"
PULL_RECORD_NAME = ".policy_patch_pull.json"
NEVER_SIGNED = (
    # People and the Hub edit the card; git and the Hub's client write the rest; ours are of this machine alone.
    "README.md", SIGNATURE_NAME, ".gitattributes", ".git", ".gitignore", ".github", ".cache", LOCK_NAME,
    PULL_RECORD_NAME,
)  # fmt: skip
MOST_FILES = 100  # a patch has fewer than ten


def must_be_signed(name: str) -> bool:
    """Whether a file is part of a patch: its configuration, its vectors, its report, or a result on it."""
    return name in (CONFIG_NAME, TENSORS_NAME, REPORT_NAME) or name.startswith(f"{RESULTS_FOLDER}/")


def is_left_out(name: str) -> bool:
    """Whether no signature of ours covers a file: the card, the signature itself, and what git or a pull writes."""
    first = name.partition("/")[0]
    return first in NEVER_SIGNED or (first.endswith(PENDING) and not must_be_signed(name))


def is_below(name: str, paths: tuple[str, ...]) -> bool:
    """Whether a file is one of these paths, or lies in one of them."""
    return any(name == path or name.startswith(f"{path.rstrip('/')}/") for path in paths)


def hashed_folder(
    folder: str | os.PathLike, contents: Mapping[str, bytes] | None = None, *, skipped: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder by its name there, `/` between folders.

    Links to files are followed, as the Hub's cache has them: what counts is the content that is read. A link to a
    folder is refused.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
        contents (`Mapping[str, bytes]`, *optional*):
            Files that were read already. They are not read again, so that what is checked is what is used.
        skipped (`tuple[str, ...]`, *optional*):
            Paths that are not read; a file that must be signed is read all the same.

    Raises:
        SignatureError: the folder holds a link to a folder, something that is no file, or over 100 files.
    """
    folder, contents = Path(folder), contents or {}
    found = {name: hash_of(content) for name, content in contents.items()}
    waiting = [folder]
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
            name = Path(entry.path).relative_to(folder).as_posix()
            if name in found or is_left_out(name) or (is_below(name, skipped) and not _is_protected(name)):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
                continue
            found[name] = _hash(entry.path, name)
            if len(found) > MOST_FILES:
                raise SignatureError(
                    f"`{folder}` holds more than {MOST_FILES} files; a patch has fewer than ten. Give the folder of "
                    "the patch alone."
                )
    return found


def _is_protected(name: str) -> bool:
    return must_be_signed(name) or must_be_signed(f"{name}/")


def hash_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _hash(path: str, name: str) -> str:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SignatureError(f"`{name}` is no file; a signature covers files only. Remove it from the folder.")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        reason = "a link to a folder" if os.path.isdir(path) else f"not readable ({error.strerror})"
        raise SignatureError(f"`{name}` is {reason}; a signature covers files only. Remove it, or copy it.") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer for ever
