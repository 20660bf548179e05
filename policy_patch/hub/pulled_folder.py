"""A folder managed by `pull`: it holds one published version and nothing else. Other people's files are not touched.

A record beside the patch lists the pulled files with their hashes; a file that differs is somebody's own work.
`fetch.py` brings the version to this machine.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policy_patch.config import CONFIG_NAME, SIGNATURE_NAME, PolicyPatchConfig
from policy_patch.errors import (
    ConfigError,
    PatchFileError,
    PatchNotFoundError,
    PatchSaveError,
    PolicyPatchError,
    SignatureError,
)
from policy_patch.files.atomic import PENDING, pending_files, remove_pending, write_whole
from policy_patch.files.documents import parse_json, read_text
from policy_patch.files.folder_lock import LOCK_NAME, only_writer
from policy_patch.hub.fetch import DESCRIBING_FILES, PATCH_FILES, PatchLocation, files_beside
from policy_patch.patch.folder import read_patch_files, read_patch_folder, write_patch_files
from policy_patch.trust.bundle import read_bundle
from policy_patch.trust.signed_files import PULL_RECORD_NAME, RESULTS_FOLDER, hash_of

RECORD_NAME = PULL_RECORD_NAME
_LARGEST_RECORD = 2**16
_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Pulled:
    """The result of a pull.

    Args:
        config ([`PolicyPatchConfig`]):
            Configuration of the patch now in the folder.
        before (`str`, *optional*):
            Version of the patch that was there before; None if there was none or it was damaged.
        kept (`Path`, *optional*):
            Folder that keeps the earlier content, if that was not from a pull.
    """

    config: PolicyPatchConfig
    before: str | None
    kept: Path | None


def pull_into(
    location: PatchLocation,
    folder: str | os.PathLike,
    *,
    overwrite: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> Pulled:
    """Put a version from the Hub into a folder; it replaces the files of an earlier pull.

    A kill at any moment leaves the older or the newer patch, and the next pull finishes. A damaged patch is replaced if
    it was pulled, or if one of its files equals that of the version.

    Args:
        location ([`~policy_patch.hub.fetch.PatchLocation`]):
            The version, in the cache.
        folder (`str` or `os.PathLike`):
            Created if it does not exist.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether to also replace a patch that was not pulled, and all files around it. The whole content is first
            kept in a new folder beside it.
        files (`Mapping[str, bytes]`, *optional*):
            Content of the version's files by name, if they were read and checked already. Defaults to those in
            `location`: the patch, its card, its report, its signature, and what that covers.

    Raises:
        PatchSaveError: the folder holds files that no pull wrote, or it cannot be written (full disk, read-only).
        PatchNotFoundError, ConfigError, PatchFileError: the version in the cache cannot be read, as in
            [`~policy_patch.patch.folder.read_patch_folder`]. Nothing is written.
    """
    files = files_of(location) if files is None else files
    new = {name: [hash_of(content)] for name, content in files.items()}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        whole = Path(folder).resolve()
        with only_writer(whole):
            old = _recorded(whole)
            foreign = _foreign(whole, new, old)
            kept = _keep(whole, folder, foreign, overwrite) if foreign else None
            before = _version_in(whole)
            _record(
                whole,
                location,
                {name: [*new.get(name, ()), *(old or {}).get(name, ())] for name in {*new, *(old or {})}},
            )
            _write(whole, files, {*DESCRIBING_FILES, SIGNATURE_NAME, *(old or {})})
            for name in foreign:
                if name not in new:
                    _remove(whole / name)
            with contextlib.suppress(OSError):  # where nothing is left in it
                (whole / RESULTS_FOLDER).rmdir()
            _record(whole, location, new)
    except PolicyPatchError:
        raise
    except OSError as error:
        raise PatchSaveError(
            f"Cannot pull into `{folder}`: {error}. The patch in it still loads; pull again to finish."
        ) from error
    config = PolicyPatchConfig.from_json(files[CONFIG_NAME].decode(), source=str(Path(folder, CONFIG_NAME)))
    return Pulled(config, before, kept)


def files_of(location: PatchLocation) -> dict[str, bytes]:
    """Return the content of each file of a patch on this machine: its two files, and those that describe it.

    Raises:
        PatchNotFoundError, ConfigError, PatchFileError: as [`~policy_patch.patch.folder.read_patch_folder`].
    """
    files = dict(read_patch_files(location.folder).files)
    files |= files_beside(location.folder, (*DESCRIBING_FILES, SIGNATURE_NAME))
    if SIGNATURE_NAME in files:
        with contextlib.suppress(SignatureError):  # nobody asks for a good one here
            covered = read_bundle(files[SIGNATURE_NAME], SIGNATURE_NAME).files
            files |= files_beside(location.folder, [name for name in covered if name not in files])
    return files


def _write(folder: Path, files: Mapping[str, bytes], older: Collection[str]) -> None:
    """Write the files of a version and remove those of an older one. The signature goes first and comes last."""
    signature = files.get(SIGNATURE_NAME)
    if signature is None or _hash(folder / SIGNATURE_NAME) != hash_of(signature):
        (folder / SIGNATURE_NAME).unlink(missing_ok=True)
    beside = {*older, *files} - set(PATCH_FILES) - {SIGNATURE_NAME}
    for name in (*beside, SIGNATURE_NAME, RECORD_NAME):  # left by killed pulls
        if (folder / name).parent.is_dir():
            remove_pending(folder / name)
    write_patch_files(folder, {name: files[name] for name in PATCH_FILES})
    for name in sorted(beside):
        if name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            write_whole(folder / name, files[name])
        else:
            (folder / name).unlink(missing_ok=True)
    if signature is not None:
        write_whole(folder / SIGNATURE_NAME, signature)


def _foreign(folder: Path, new: Mapping[str, Collection[str]], old: Mapping[str, Collection[str]] | None) -> list[str]:
    """Return the names of files that are neither from an earlier pull nor equal to those pulled now."""
    ours = {RECORD_NAME, LOCK_NAME}
    ours |= {
        path.relative_to(folder).as_posix()
        for name in (*PATCH_FILES, *DESCRIBING_FILES, SIGNATURE_NAME, RECORD_NAME, *new, *(old or {}))
        if (folder / name).parent.is_dir()
        for path in pending_files(folder / name)
    }
    if any(name.startswith(f"{RESULTS_FOLDER}/") for name in (*new, *(old or {}))):
        ours.add(RESULTS_FOLDER)  # empty, after a killed pull
    found = sorted(name for name in _names(folder) if name not in ours)
    known = {name: {*new.get(name, ()), *(old or {}).get(name, ())} for name in found}
    foreign = [name for name in found if not known[name] or _hash(folder / name) not in known[name]]
    half_is_known = any(name in found and name not in foreign for name in PATCH_FILES)
    if (old is not None or half_is_known) and set(foreign) & set(PATCH_FILES) and not _version_in(folder):
        foreign = [name for name in foreign if name not in PATCH_FILES]  # damaged, so it is nobody's usable work
    return foreign


def _names(folder: Path) -> Iterator[str]:
    """Yield the names in a folder; of the folder of results, those of its files."""
    for entry in os.scandir(folder):
        if entry.name == RESULTS_FOLDER and entry.is_dir(follow_symlinks=False):
            yield from [f"{entry.name}/{inner.name}" for inner in os.scandir(entry.path)] or [entry.name]
        else:
            yield entry.name


def _keep(folder: Path, given: str | os.PathLike, foreign: list[str], overwrite: bool) -> Path:
    """Copy the whole content of a folder into a new one beside it if `overwrite` is set; else raise."""
    shown = ", ".join(foreign[:_NAMES_SHOWN]) + (
        f" and {len(foreign) - _NAMES_SHOWN} more" if len(foreign) > _NAMES_SHOWN else ""
    )
    if not any((folder / name).exists() for name in (*PATCH_FILES, RECORD_NAME)):
        raise PatchSaveError(
            f"`{given}` has no patch and is not empty ({shown}). Pull into an empty folder: "
            f"`--output_dir {Path(given) / 'pulled'}`."
        )
    if not overwrite:
        raise PatchSaveError(
            f"`{given}` has files that were not pulled from the Hub, maybe unpublished work: {shown}. Pull into "
            f"another folder, `--output_dir pulled/{folder.name}`; or give `--overwrite`, which first keeps the whole "
            "content in a new folder beside it."
        )
    stamp = f"{folder.name}.before-pull-{time.strftime('%Y%m%dT%H%M%S')}"
    for kept in _numbered(folder.with_name(stamp)):
        unfinished = kept.with_name(kept.name + PENDING)
        if not kept.exists() and not unfinished.exists():
            break
    # As hard links: nothing is moved before everything is kept, and nothing takes space twice.
    return shutil.copytree(folder, unfinished, symlinks=True, copy_function=_link).rename(kept)


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, 10**6):
        yield path.with_name(f"{path.name}-{number}")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _version_in(folder: Path) -> str | None:
    """Return the version of the patch in a folder; None if no patch loads from it."""
    try:
        return read_patch_folder(folder)[0].patch_version
    except (PatchNotFoundError, ConfigError, PatchFileError):
        return None


def _hash(path: Path) -> str | None:
    """Return the hash of a file; None if it is not a plain file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(folder: Path, location: PatchLocation, files: Mapping[str, Collection[str]]) -> None:
    """Record the hashes that each file of this folder may have; during a pull there are several."""
    values = {
        "repo_id": location.repo_id,
        "commit": location.commit,
        "files": {name: list(files[name]) for name in sorted(files)},
    }
    write_whole(folder / RECORD_NAME, (json.dumps(values, indent=1) + "\n").encode())


def _recorded(folder: Path) -> dict[str, Any] | None:
    """Return the recorded hashes by file name; None if there is no readable record."""
    try:
        files = parse_json(read_text(folder / RECORD_NAME, largest=_LARGEST_RECORD))["files"]
        return {str(name): [str(one) for one in hashes] for name, hashes in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
