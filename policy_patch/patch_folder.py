"""The folder of a patch: its configuration and its vectors, written so that a kill at any moment loses nothing.

No network and no model here; a folder fetched from elsewhere is read by the same function.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from policy_patch import __version__
from policy_patch.atomic import PENDING, write_pending, write_whole
from policy_patch.config import CONFIG_NAME, PolicyPatchConfig
from policy_patch.errors import ConfigError, PatchFileError, PatchNotFoundError, PatchSaveError
from policy_patch.prefix import vectors_from_bytes, vectors_to_bytes

TENSORS_NAME = "policy_patch.safetensors"
_HEADER_LIMIT = 64 * 1024  # our file's header has under 200 bytes; a longer one is not ours, so it is not read


def write_patch_folder(
    folder: str | os.PathLike, config: PolicyPatchConfig, vectors: torch.Tensor
) -> PolicyPatchConfig:
    """Write one patch into `folder`, over a patch that may be there.

    The pair is replaced in two renames: vectors, then configuration. A kill between the two leaves the new vectors
    with the old configuration and the new one pending beside it; `read_patch_folder` recognises that pair by its hash.

    Args:
        folder (`str` or `os.PathLike`):
            Made if it does not exist.
        config ([`PolicyPatchConfig`]):
            Not changed; hash, sizes and writer are filled into what is written.
        vectors (`torch.Tensor`):
            `(num_virtual_tokens, hidden_size)`, any float dtype; written in fp32.

    Returns:
        [`PolicyPatchConfig`]: the configuration as written.

    Raises:
        PatchSaveError: full disk, read-only folder and the like; what was there before still loads.
        PatchFileError: the vectors hold NaN or infinity.
    """
    written, files = patch_files(config, vectors)
    write_patch_files(folder, files)
    return written


def patch_files(config: PolicyPatchConfig, vectors: torch.Tensor) -> tuple[PolicyPatchConfig, dict[str, bytes]]:
    """Return the configuration as it is written, and the content of the two files by name. As above."""
    content = vectors_to_bytes(vectors)
    written = replace(
        config,
        num_virtual_tokens=vectors.shape[0],
        hidden_size=vectors.shape[1],
        sha256=hashlib.sha256(content).hexdigest(),
        policy_patch_version=__version__,
    )
    return written, {TENSORS_NAME: content, CONFIG_NAME: written.to_json().encode()}


def write_patch_files(folder: str | os.PathLike, files: dict[str, bytes]) -> None:
    """Write the two files of a patch into `folder`, vectors first, over a patch that may be there.

    Raises:
        PatchSaveError: full disk, read-only folder and the like; what was there before still loads.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _finish_killed_save(folder)
        pending = {name: write_pending(folder / name, files[name]) for name in (TENSORS_NAME, CONFIG_NAME)}
        for name, path in pending.items():
            os.replace(path, folder / name)
    except OSError as error:
        raise PatchSaveError(
            f"Cannot write the patch to `{folder}`: {error}. What was there before is intact; free some space or "
            "give another folder."
        ) from error


def _finish_killed_save(folder: Path) -> None:
    """Move a pending configuration into place if the vectors are already its own: it is about to be overwritten."""
    pending, tensors = folder / (CONFIG_NAME + PENDING), folder / TENSORS_NAME
    if pending.is_file() and tensors.is_file():
        with contextlib.suppress(ConfigError, PatchFileError):
            config = _read_config(pending)
            if hashlib.sha256(_read_tensor_file(tensors, [config])).hexdigest() == config.sha256:
                os.replace(pending, folder / CONFIG_NAME)


def read_patch_folder(folder: str | os.PathLike) -> tuple[PolicyPatchConfig, torch.Tensor]:
    """Read one patch from `folder`.

    Returns:
        `tuple[PolicyPatchConfig, torch.Tensor]`: the configuration, and the vectors
        `(num_virtual_tokens, hidden_size)`, fp32, on the CPU.

    Raises:
        PatchNotFoundError: no such folder, or no patch in it.
        ConfigError: a configuration that cannot be read.
        PatchFileError: a tensor file that is damaged or does not match the configuration.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise PatchNotFoundError(_why_no_patch(folder))
    if not (folder / TENSORS_NAME).is_file():
        raise PatchNotFoundError(f"`{folder}` has a {CONFIG_NAME} but no {TENSORS_NAME}: only half of a patch.")
    configs = [_read_config(folder / CONFIG_NAME)]
    pending = folder / (CONFIG_NAME + PENDING)
    if pending.is_file():  # a save was killed; if between its two renames, this is the configuration of the vectors
        with contextlib.suppress(ConfigError, PatchFileError):
            configs.append(_read_config(pending))
    content = _read_tensor_file(folder / TENSORS_NAME, configs)
    digest = hashlib.sha256(content).hexdigest()
    config = next((config for config in configs if config.sha256 == digest), configs[0])
    vectors = vectors_from_bytes(content, config, str(folder / TENSORS_NAME))
    if digest != config.sha256:
        raise PatchFileError(
            f"{folder / TENSORS_NAME} has the hash {digest}; its configuration says {config.sha256}. The file was "
            "altered or damaged after it was saved: get the patch again from where it came from."
        )
    return config, vectors


def _read_config(path: Path) -> PolicyPatchConfig:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PatchFileError(f"{path} is no text file ({error}): get the patch again.") from error
    return PolicyPatchConfig.from_json(text, source=str(path))


def copy_patch_folder(
    source: str | os.PathLike, target: str | os.PathLike, *, with_files: Sequence[str] = ()
) -> PolicyPatchConfig:
    """Copy a patch byte for byte, over one that may be in `target`.

    Args:
        source (`str` or `os.PathLike`):
            Folder of a patch.
        target (`str` or `os.PathLike`):
            Made if it does not exist.
        with_files (`Sequence[str]`):
            Names of files that belong to the patch: copied where `source` has them, else removed from `target`, since
            what is there then describes another patch.

    Raises:
        PatchNotFoundError, ConfigError, PatchFileError: as [`read_patch_folder`]; nothing is written then.
        PatchSaveError: as [`write_patch_folder`].
    """
    config, _ = read_patch_folder(source)
    source, target = Path(source), Path(target)
    write_patch_files(target, {name: (source / name).read_bytes() for name in (TENSORS_NAME, CONFIG_NAME)})
    try:
        for name in with_files:
            if (source / name).is_file():
                write_whole(target / name, (source / name).read_bytes())
            else:
                (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise PatchSaveError(f"The patch is in `{target}`, but {name} cannot be written: {error}.") from error
    return config


def largest_tensor_file(config: PolicyPatchConfig) -> int:
    """Return how many bytes a tensor file with this configuration has at most."""
    return _HEADER_LIMIT + 4 * config.num_virtual_tokens * (config.hidden_size or 0)


def _read_tensor_file(path: Path, configs: list[PolicyPatchConfig]) -> bytes:
    """Return the file's bytes, unless it is far larger than the configurations allow."""
    largest = max(largest_tensor_file(config) for config in configs)
    size = path.stat().st_size
    if size > largest:
        raise PatchFileError(
            f"{path} has {size:,} bytes; the configuration beside it allows at most {largest:,}. It was not read."
        )
    return path.read_bytes()


def _why_no_patch(folder: Path) -> str:
    if not folder.exists():
        return f"`{folder}` does not exist. Give a folder that `save_pretrained` wrote, or a Hub id like `org/patch`."
    if folder.is_file():
        return f"`{folder}` is a file. Give the folder that holds {CONFIG_NAME} and {TENSORS_NAME}."
    if (folder / "adapter_config.json").is_file():
        return f"`{folder}` holds a PEFT adapter (adapter_config.json), not a policy patch. Load it with PEFT."
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return f"`{folder}` holds no {CONFIG_NAME}, so no patch. Found there: {found}."
