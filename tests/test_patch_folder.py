"""Tests of `policy_patch.patch_folder`: bit-equal after a save, refused after damage, whole after any kill."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from policy_patch import PolicyPatchConfig, __version__
from policy_patch.errors import ConfigError, PatchFileError, PatchNotFoundError, PatchSaveError
from policy_patch.patch_folder import (
    CONFIG_NAME,
    TENSORS_NAME,
    copy_patch_folder,
    read_patch_folder,
    write_patch_folder,
)

SHAPE = (3, 8)
STEPS = ("fsync", "replace")  # the two calls of the operating system that a save is made of


def patch(number: int) -> tuple[PolicyPatchConfig, torch.Tensor]:
    """Return a patch whose version and vectors both say `number`, so that a mixture of two is seen."""
    config = PolicyPatchConfig(num_virtual_tokens=SHAPE[0], risk="toxicity", patch_version=f"{number}.0.0")
    return config, torch.full(SHAPE, float(number))


def number_in(folder: Path) -> int:
    config, vectors = read_patch_folder(folder)
    number = int(vectors[0, 0])
    assert torch.equal(vectors, patch(number)[1]) and config.patch_version == f"{number}.0.0"
    return number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with patch 1 in it."""
    write_patch_folder(tmp_path / "patch", *patch(1))
    return tmp_path / "patch"


def test_a_saved_patch_comes_back_bit_for_bit(tmp_path):
    config, _ = patch(1)
    vectors = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    written = write_patch_folder(tmp_path / "a" / "b", config, vectors)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [TENSORS_NAME, CONFIG_NAME]
    read, back = read_patch_folder(str(tmp_path / "a" / "b"))
    assert torch.equal(back, vectors) and back.dtype == torch.float32
    assert read == written
    assert (read.hidden_size, read.policy_patch_version) == (8, __version__)
    assert read.sha256 == hashlib.sha256((tmp_path / "a" / "b" / TENSORS_NAME).read_bytes()).hexdigest()
    assert config == patch(1)[0], "the given configuration is not changed"


def test_the_same_patch_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_patch_folder(tmp_path / name, *patch(7))
    for file in (CONFIG_NAME, TENSORS_NAME):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_sizes_that_are_written_are_those_of_the_vectors(tmp_path):
    written = write_patch_folder(tmp_path, PolicyPatchConfig(num_virtual_tokens=50, hidden_size=99), patch(1)[1])
    assert (written.num_virtual_tokens, written.hidden_size) == SHAPE
    assert torch.equal(read_patch_folder(tmp_path)[1], patch(1)[1])


def test_vectors_that_are_not_finite_leave_the_old_patch(folder):
    with pytest.raises(PatchFileError, match="the vectors hold 24 NaN"):
        write_patch_folder(folder, patch(2)[0], torch.full(SHAPE, torch.nan))
    assert number_in(folder) == 1


# Damage


def test_one_flipped_bit_anywhere_in_the_tensor_file_is_refused(folder):
    path = folder / TENSORS_NAME
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(PatchFileError):
            read_patch_folder(folder)
    path.write_bytes(content)
    assert number_in(folder) == 1


def test_vectors_of_another_patch_are_refused_with_both_hashes(folder, tmp_path):
    other = write_patch_folder(tmp_path / "other", *patch(2))
    own = read_patch_folder(folder)[0]
    (tmp_path / "other" / TENSORS_NAME).rename(folder / TENSORS_NAME)
    with pytest.raises(PatchFileError, match=f"has the hash {other.sha256}; its configuration says {own.sha256}"):
        read_patch_folder(folder)


def test_a_configuration_without_a_hash_is_refused(folder):
    values = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**values, "sha256": None}))
    with pytest.raises(PatchFileError, match="its configuration says None"):
        read_patch_folder(folder)


@pytest.mark.parametrize("name", [CONFIG_NAME, TENSORS_NAME])
@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_cut_file_is_refused(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises((PatchFileError, ConfigError), match=r"truncated|damaged"):
        read_patch_folder(folder)


def test_a_configuration_that_is_no_text_is_refused(folder):
    (folder / CONFIG_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PatchFileError, match="is no text file"):
        read_patch_folder(folder)


def test_a_huge_tensor_file_is_not_read(folder, monkeypatch):
    with open(folder / TENSORS_NAME, "r+b") as file:
        file.truncate(10**10)  # sparse: takes no room on the disk
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read"))
    with pytest.raises(PatchFileError, match=r"has 10,000,000,000 bytes; .* allows at most 65,632. It was not read"):
        read_patch_folder(folder)


# No patch at all


def test_half_a_patch_is_named_so(folder):
    (folder / TENSORS_NAME).unlink()
    with pytest.raises(PatchNotFoundError, match=f"has a {CONFIG_NAME} but no {TENSORS_NAME}: only half of a patch"):
        read_patch_folder(folder)


def test_vectors_without_a_configuration_are_no_patch(folder):
    (folder / CONFIG_NAME).unlink()
    with pytest.raises(PatchNotFoundError, match=f"holds no {CONFIG_NAME}, so no patch. Found there: {TENSORS_NAME}"):
        read_patch_folder(folder)


def test_a_folder_of_peft_is_named_so(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PatchNotFoundError, match=r"holds a PEFT adapter .* Load it with PEFT"):
        read_patch_folder(tmp_path)


def test_a_file_an_empty_folder_and_nothing_are_told_apart(folder, tmp_path):
    with pytest.raises(PatchNotFoundError, match=r"is a file\. Give the folder"):
        read_patch_folder(folder / CONFIG_NAME)
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Give a folder that `save_pretrained` wrote"):
        read_patch_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PatchNotFoundError, match="Found there: nothing"):
        read_patch_folder(tmp_path / "empty")


# Disks that fail


@pytest.mark.parametrize("at", [1, 2])
def test_a_full_disk_leaves_the_old_patch(folder, monkeypatch, at):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == at:
            os.ftruncate(descriptor, 10)
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(PatchSaveError, match=r"Cannot write the patch to .*No space left on device.* is intact"):
            write_patch_folder(folder, *patch(2))
    assert number_in(folder) == 1
    write_patch_folder(folder, *patch(3))
    assert number_in(folder) == 3
    assert len(list(folder.iterdir())) == 2


def test_a_folder_that_cannot_be_made_is_our_error(folder):
    with pytest.raises(PatchSaveError, match="Cannot write the patch"):
        write_patch_folder(folder / CONFIG_NAME, *patch(2))
    with pytest.raises(OSError, match="Cannot write the patch"):
        write_patch_folder(folder / CONFIG_NAME / "below", *patch(2))
    assert number_in(folder) == 1


# Kills


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it, so nothing is cleaned up."""


def save_and_kill(folder: Path, number: int, at: int, half: bool) -> bool:
    """Save a patch and die in place of call `at` to the system, with the file under way cut in half or not.

    Returns whether the save was killed, not finished.
    """
    calls = []

    def dying(name, call):
        def step(*args):
            calls.append(name)
            if len(calls) == at:
                if name == "fsync" and half:
                    os.ftruncate(args[0], 40)
                raise Killed
            return call(*args)

        return step

    with pytest.MonkeyPatch.context() as patched:
        for name in STEPS:
            patched.setattr(os, name, dying(name, getattr(os, name)))
        try:
            write_patch_folder(folder, *patch(number))
        except Killed:
            return True
    return False


@pytest.mark.parametrize("half", [True, False])
def test_a_kill_at_any_moment_leaves_the_old_patch_or_the_new_one(tmp_path, half):
    seen = []
    for at in range(1, 20):
        folder = tmp_path / str(at)
        write_patch_folder(folder, *patch(1))
        killed = save_and_kill(folder, 2, at, half)
        seen.append(number_in(folder))
        if not killed:
            break
    assert seen == [1, 1, 1, 2, 2]  # killed at two writes and two renames, then not at all


@pytest.mark.parametrize("half", [True, False])
def test_a_second_kill_on_what_a_first_one_left_loses_nothing(tmp_path, half):
    for first in range(1, 5):
        for second in range(1, 20):
            folder = tmp_path / f"{first}-{second}"
            write_patch_folder(folder, *patch(1))
            assert save_and_kill(folder, 2, first, half)
            before = number_in(folder)
            killed = save_and_kill(folder, 3, second, half)
            assert number_in(folder) in ({before, 3} if killed else {3})
            if not killed:
                assert len(list(folder.iterdir())) == 2, "nothing pending is left behind"
                break


def test_a_full_disk_after_a_kill_between_the_renames_leaves_the_new_patch(folder, monkeypatch):
    assert save_and_kill(folder, 2, 4, half=False)
    assert (folder / (CONFIG_NAME + ".pending")).exists()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(PatchSaveError, match="full"):
            write_patch_folder(folder, *patch(3))
    assert number_in(folder) == 2


def test_a_pending_file_of_anyone_else_does_no_harm(folder):
    for content in (b"", b"\xff\xfe", b"{}", b"[" * 100_000):
        (folder / (CONFIG_NAME + ".pending")).write_bytes(content)
        assert number_in(folder) == 1
    write_patch_folder(folder, *patch(2))
    assert number_in(folder) == 2


KILLER = """
import os, random, signal, sys, time
from tests.test_patch_folder import number_in, patch, write_patch_folder

folder, last, interrupted = sys.argv[1], 1, 0
write_patch_folder(folder, *patch(1))
random.seed(0)
for attempt in range(40):
    start, pipe = last + 1, os.pipe()
    child = os.fork()
    if child == 0:
        for number in range(start, start + 10**6):
            write_patch_folder(folder, *patch(number))
            os.write(pipe[1], b"x")
    os.read(pipe[0], 1)  # at least one save is done
    time.sleep(random.random() / 100)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(pipe[0]), os.close(pipe[1])
    interrupted += len(os.listdir(folder)) > 2
    number = number_in(folder)
    assert number >= start, (number, start)
    last = number
print("read after every kill; interrupted saves:", interrupted)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are POSIX")
def test_a_patch_reads_after_real_kills_of_a_process_that_saves_in_a_loop(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "patch")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("read after every kill")
    assert int(done.stdout.split()[-1]) > 0, "no kill fell into a save: the loop proved nothing"


# Copying


def test_a_copy_has_the_same_bytes_and_what_belongs_to_it(tmp_path):
    config = write_patch_folder(tmp_path / "a", PolicyPatchConfig(patch_version="1.0.0"), torch.ones(3, 4))
    (tmp_path / "a" / "README.md").write_text("card")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "evaluation.json").write_text("of another patch")
    (tmp_path / "b" / "mine.txt").write_text("kept")
    copied = copy_patch_folder(tmp_path / "a", tmp_path / "b", with_files=("README.md", "evaluation.json"))
    assert copied == config
    names = {CONFIG_NAME, TENSORS_NAME, "README.md"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == {*names, "mine.txt"}
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_damaged_patch_is_not_copied(tmp_path):
    write_patch_folder(tmp_path / "a", PolicyPatchConfig(patch_version="1.0.0"), torch.ones(3, 4))
    write_patch_folder(tmp_path / "b", PolicyPatchConfig(patch_version="0.9.0"), torch.zeros(3, 4))
    tensors = tmp_path / "a" / TENSORS_NAME
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(PatchFileError):
        copy_patch_folder(tmp_path / "a", tmp_path / "b")
    assert read_patch_folder(tmp_path / "b")[0].patch_version == "0.9.0"
