"""The folder of a patch: configuration and vectors, which always change together, even with concurrent readers.

Each of the two files holds the hash of the other, so a reader recognises a pair. One writer at a time replaces them,
and a kill at any moment loses nothing. No network and no model here; a folder fetched from the Hub is read the same
way.
"""

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from policy_patch._version import __version__
from policy_patch.config import CONFIG_NAME, LARGEST_CONFIG, SIGNATURE_NAME, PolicyPatchConfig, read_config
from policy_patch.errors import ConfigError, PatchFileError, PatchNotFoundError, PatchSaveError, PolicyPatchError
from policy_patch.files.atomic import pending_files, remove_pending, write_pending, write_whole
from policy_patch.files.documents import Fault, read_text
from policy_patch.files.folder_lock import NoLockHere, no_writer, only_writer, pause
from policy_patch.patch.tensor_file import array_from_bytes, config_hash_in

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

TENSORS_NAME = "policy_patch.safetensors"
_HEADER_LIMIT = 64 * 1024  # the header that we write has under 400 bytes; a far longer one is not read
LARGEST_TENSORS = 2**30  # bytes, whatever the configuration says: 65,536 vectors of 4096 numbers
_PATIENCE = 20.0  # seconds that a reader waits for a moment without a save
_QUIET = 0.1  # seconds without a change, after which no save is under way; used if folders cannot be locked


def write_patch_folder(
    folder: str | os.PathLike, config: PolicyPatchConfig, vectors: "torch.Tensor"
) -> PolicyPatchConfig:
    """Write one patch into `folder`, over a patch that may be there.

    Args:
        folder (`str` or `os.PathLike`):
            Created if it does not exist.
        config ([`PolicyPatchConfig`]):
            Not changed; the written copy gets hash, sizes and the package version.
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, any float dtype; written in fp32.

    Returns:
        [`PolicyPatchConfig`]: the configuration as written.

    Raises:
        PatchSaveError: the disk is full, the folder is read-only, or others keep writing there. The patch that was
            there before still loads.
        PatchFileError: the vectors hold NaN or infinity, or are larger than a patch may be.
        ConfigError: the configuration has a value that JSON cannot hold.
    """
    written, files = patch_files(config, vectors)
    write_patch_files(folder, files)
    return written


def patch_files(config: PolicyPatchConfig, vectors: "torch.Tensor") -> tuple[PolicyPatchConfig, dict[str, bytes]]:
    """Return the configuration as written, and the content of the two files by name. Errors as above."""
    written = replace(
        config, num_virtual_tokens=vectors.shape[0], hidden_size=vectors.shape[1], policy_patch_version=__version__
    )
    content = _tensor_file(written, vectors)
    if len(content) > LARGEST_TENSORS:
        raise PatchFileError(f"The vectors take {len(content):,} bytes; a patch has at most {LARGEST_TENSORS:,}.")
    written = replace(written, sha256=hashlib.sha256(content).hexdigest())
    return written, {TENSORS_NAME: content, CONFIG_NAME: written.to_json().encode()}


def patch_hash(config: PolicyPatchConfig, vectors: "torch.Tensor") -> str:
    """Return the hash of a patch's tensor file; if the patch has changed since loading, of the file it would give."""
    if hashlib.sha256(_tensor_file(config, vectors)).hexdigest() == config.sha256:
        return config.sha256
    return patch_files(config, vectors)[0].sha256


def _tensor_file(config: PolicyPatchConfig, vectors: "torch.Tensor") -> bytes:
    from policy_patch.patch.vectors import vectors_to_bytes

    try:
        text = config.to_json()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The configuration holds a value that JSON does not: {error}.") from error
    if len(text) > LARGEST_CONFIG:  # all of it is ASCII
        raise ConfigError(f"The configuration has {len(text):,} bytes; expected at most {LARGEST_CONFIG:,}.")
    return vectors_to_bytes(vectors, read_config(text, "The configuration")[1])


def write_patch_files(folder: str | os.PathLike, files: dict[str, bytes]) -> None:
    """Write the two files of a patch into `folder`, over a patch that may be there.

    They are replaced by two renames: vectors, then configuration. A kill between the two leaves the new vectors, the
    old configuration and a pending file with the new configuration, which readers find. Other writers wait.

    Raises:
        PatchSaveError: as [`write_patch_folder`].
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            _finish_killed_save(folder)
            _remove_stale_signature(folder, files)
            _replace_pair(folder, files)
    except OSError as error:
        raise PatchSaveError(
            f"Cannot write the patch to `{folder}`: {error}. What was there before is intact; free some space or "
            "give another folder."
        ) from error


def _finish_killed_save(folder: Path) -> None:
    """Move a pending configuration into place if the vectors match it, and remove all other pending files."""
    if any(pending_files(folder / CONFIG_NAME)):
        with contextlib.suppress(PolicyPatchError):
            found = _read_once(folder)
            if isinstance(found, PatchFiles) and found.config_path != folder / CONFIG_NAME:
                os.replace(found.config_path, folder / CONFIG_NAME)
    for name in (TENSORS_NAME, CONFIG_NAME):
        with contextlib.suppress(PermissionError):  # a file of another user in a shared folder; it does no harm
            remove_pending(folder / name)


def _remove_stale_signature(folder: Path, files: dict[str, bytes]) -> None:
    """Remove the signature of another patch, before it is replaced: no folder claims a signature that does not hold."""
    signature = folder / SIGNATURE_NAME
    if os.path.lexists(signature) and not all(_holds(folder / name, content) for name, content in files.items()):
        signature.unlink()
        logger.warning(f"{signature} was the signature of the earlier patch, and is removed. Sign the new one.")


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False


def _replace_pair(folder: Path, files: dict[str, bytes]) -> None:
    pending: dict[str, Path] = {}
    try:
        for name in (TENSORS_NAME, CONFIG_NAME):
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, "there is a folder of that name", name)
            pending[name] = write_pending(folder / name, files[name])
        os.replace(pending[TENSORS_NAME], folder / TENSORS_NAME)
    except OSError:
        for path in pending.values():
            path.unlink(missing_ok=True)
        raise
    os.replace(pending[CONFIG_NAME], folder / CONFIG_NAME)


def read_patch_folder(folder: str | os.PathLike) -> "tuple[PolicyPatchConfig, torch.Tensor]":
    """Read one patch from `folder`. While others save there, the result is the older or the newer patch, never a mix.

    Nothing is written, so a read-only folder works.

    Returns:
        `tuple[PolicyPatchConfig, torch.Tensor]`: the configuration, and the vectors
        `(num_virtual_tokens, hidden_size)`, fp32, on the CPU.

    Raises:
        PatchNotFoundError: the folder does not exist or holds no patch.
        ConfigError: the configuration cannot be read.
        PatchFileError: a file is damaged, or the two files were not saved together.
    """
    pair = _read_pair(Path(folder))
    return pair.config, pair.vectors


def read_patch_files(folder: str | os.PathLike) -> "PatchFiles":
    """Read one patch with the bytes of its two files. Results and errors as [`read_patch_folder`]."""
    return _read_pair(Path(folder))


@dataclass(frozen=True)
class PatchFiles:
    """Two files that belong together, parsed and as bytes by name.

    `array` holds the vectors, `(num_virtual_tokens, hidden_size)`, fp32. `config_path` is a pending file during a save,
    or after a killed one.
    """

    config: PolicyPatchConfig
    array: np.ndarray
    config_path: Path
    files: dict[str, bytes]

    @property
    def vectors(self) -> "torch.Tensor":
        """Return the vectors as a tensor, which shares its memory with `array`."""
        import torch

        return torch.from_numpy(self.array)


def _read_pair(folder: Path) -> PatchFiles:
    found = _read_once(folder)
    if isinstance(found, PatchFileError):
        found = _read_undisturbed(folder)
    if isinstance(found, PatchFileError):
        raise found
    return found


def _read_undisturbed(folder: Path) -> PatchFiles | PatchFileError:
    """Return the pair, or the error if the files do not form one although no save is under way."""
    end = time.monotonic() + _PATIENCE
    before, since = None, 0.0
    while time.monotonic() < end:
        try:
            with no_writer(folder) as is_alone:
                found = _read_once(folder)
        except NoLockHere:
            found, now = _read_once(folder), _state(folder)
            if now != before:
                before, since = now, time.monotonic()
            is_alone = time.monotonic() - since > _QUIET
        except PatchNotFoundError:
            raise
        except FileNotFoundError as error:  # the folder itself was removed
            raise PatchNotFoundError(_why_no_patch(folder)) from error
        if is_alone or isinstance(found, PatchFiles):
            return found
        pause()
    return PatchFileError(
        f"`{folder}` was written to without a break for {_PATIENCE:g} seconds, so no whole patch could be read from "
        "it. Try again when the other process is done."
    )


def _state(folder: Path) -> list[tuple[int, int, int]]:
    """Return a value that changes with every save."""
    found = [path.stat() for name in (TENSORS_NAME, CONFIG_NAME) if (path := folder / name).exists()]
    return [(status.st_ino, status.st_mtime_ns, status.st_size) for status in found]


def _read_once(folder: Path) -> PatchFiles | PatchFileError:
    """Return the pair, or the reason why the files are no pair; a save in between is a possible reason."""
    config_path, fault = folder / CONFIG_NAME, None
    if not (folder / TENSORS_NAME).is_file():
        half = f"`{folder}` has a {CONFIG_NAME} but no {TENSORS_NAME}: only half of a patch."
        raise PatchNotFoundError(half if config_path.is_file() else _why_no_patch(folder))
    if config_path.is_file():
        text, config, config_sha256 = _read_config(
            config_path
        )  # a save never leaves half a file, so an error is the patch's own
        try:
            return _pair_with(folder, config_path, text, config, config_sha256)
        except PatchFileError as error:
            fault = error
    with contextlib.suppress(OSError):
        for pending in pending_files(config_path):
            with contextlib.suppress(ConfigError, PatchFileError):
                return _pair_with(folder, pending, *_read_config(pending))
    if fault is None:
        raise PatchNotFoundError(_why_no_patch(folder))
    return fault


def _read_config(path: Path) -> tuple[str, PolicyPatchConfig, str]:
    """Return the text of a configuration, its parsed value, and its hash."""
    try:
        text = read_text(path, largest=LARGEST_CONFIG)
    except Fault as fault:
        raise PatchFileError(f"{fault.at(str(path))}. It is no configuration: get the patch again.") from fault
    except OSError as error:
        raise PatchFileError(f"{path} cannot be read: {error}.") from error
    return text, *read_config(text, str(path))


def _pair_with(folder: Path, config_path: Path, text: str, config: PolicyPatchConfig, config_sha256: str) -> PatchFiles:
    """Return the pair if the vectors and this configuration were saved together."""
    path = folder / TENSORS_NAME
    largest = largest_tensor_file(config)
    try:
        with open(path, "rb") as file:
            content = file.read(largest + 1) if (size := os.fstat(file.fileno()).st_size) <= largest else b""
    except OSError as error:
        raise PatchFileError(f"{path} cannot be read: {error}.") from error
    if size > largest:
        raise PatchFileError(
            f"{path} has {size:,} bytes; the configuration beside it allows at most {largest:,}. It was not read."
        )
    array = array_from_bytes(content, config, str(path))
    digest = hashlib.sha256(content).hexdigest()
    if digest != config.sha256:
        raise PatchFileError(
            f"{path} has the hash {digest}; its configuration says {config.sha256}. The file was altered or damaged "
            "after it was saved: get the patch again from where it came from."
        )
    if (expected := config_hash_in(content, str(path))) != config_sha256:
        raise PatchFileError(
            f"{config_path} has the hash {config_sha256}; {TENSORS_NAME} beside it says {expected}. The configuration "
            "was altered or damaged after it was saved: get the patch again from where it came from."
        )
    return PatchFiles(config, array, config_path, {TENSORS_NAME: content, CONFIG_NAME: text.encode()})


def copy_patch_folder(
    source: str | os.PathLike, target: str | os.PathLike, *, with_files: Sequence[str] = ()
) -> PolicyPatchConfig:
    """Copy a patch byte for byte into `target`, where it replaces a patch that may be there.

    Args:
        source (`str` or `os.PathLike`):
            Folder of a patch.
        target (`str` or `os.PathLike`):
            Created if it does not exist.
        with_files (`Sequence[str]`):
            Names of further files that describe the patch. If `source` lacks one, it is removed from `target`, because
            there it describes another patch.

    Raises:
        PatchNotFoundError, ConfigError, PatchFileError: as [`read_patch_folder`]; then nothing is written.
        PatchSaveError: as [`write_patch_folder`].
    """
    source, target = Path(source), Path(target)
    pair = _read_pair(source)
    write_patch_files(target, pair.files)
    try:
        for name in with_files:
            if (source / name).is_file():
                write_whole(target / name, (source / name).read_bytes())
            else:
                (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise PatchSaveError(f"The patch is in `{target}`, but {name} cannot be written: {error}.") from error
    return pair.config


def largest_tensor_file(config: PolicyPatchConfig) -> int:
    """Return the largest number of bytes that a tensor file with this configuration may have."""
    return min(LARGEST_TENSORS, _HEADER_LIMIT + 4 * config.num_virtual_tokens * (config.hidden_size or 0))


def _why_no_patch(folder: Path) -> str:
    if not folder.exists():
        return f"`{folder}` does not exist. Give a folder that `save_pretrained` wrote, or a Hub id like `org/patch`."
    if folder.is_file():
        return f"`{folder}` is a file. Give the folder that holds {CONFIG_NAME} and {TENSORS_NAME}."
    if (folder / "adapter_config.json").is_file():
        return f"`{folder}` holds a PEFT adapter (adapter_config.json), not a policy patch. Load it with PEFT."
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return f"`{folder}` holds no {CONFIG_NAME}, so no patch. Found there: {found}."
