"""Tests of `patch.folder`: bit-equal after a save, refused after damage, whole after any kill."""

import contextlib
import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch

from policy_patch import PolicyPatchConfig, __version__
from policy_patch.errors import ConfigError, PatchFileError, PatchNotFoundError, PatchSaveError
from policy_patch.files import folder_lock
from policy_patch.files.atomic import pending_files
from policy_patch.files.folder_lock import NoLockHere, only_writer
from policy_patch.patch import folder as patch_folder
from policy_patch.patch.folder import (
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


BASE = {"format": 1, "architecture": {"model_type": "llama", "hidden_size": 8}, "tokenizer": "ab" * 32}


MEASURED = {
    "stack": [{"name": "tox", "sha256": "self"}, {"name": "bias", "sha256": "ab" * 32}], "risk": "toxicity",
    "metric": "average_maximum_toxicity", "base": 0.8, "alone": 0.2, "stacked": 0.3, "verdict": "breaks",
    "source": "composition.json", "date": "2026-11-30",
}  # fmt: skip


@pytest.fixture
def telling_folder(tmp_path: Path) -> Path:
    """A folder with a patch that has something to say in every field."""
    config = PolicyPatchConfig(
        risk="toxicity", patch_version="1.10.0", placement="before_bos", bos_token_id=10, init_seed=17,
        base_model_name_or_path="acme/base", base_model_revision="ab" * 20, base_fingerprint=BASE,
        composed_from=[{"name": "tox", "sha256": "cd" * 32}], filtered_by=["lexical", "née"],
        conflicts=["risk:gender_bias"], order={"after": ["org/bias@<2.0.0"]}, interference=[MEASURED],
        rebased_from={"sha256": "ef" * 32},
    )  # fmt: skip
    write_patch_folder(tmp_path / "telling", config, torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)))
    return tmp_path / "telling"


def same_meaning(config: PolicyPatchConfig, vectors: torch.Tensor, folder: Path) -> bool:
    """Return whether a folder says the same; if not, it must be refused with our error."""
    try:
        found = read_patch_folder(folder)
    except (ConfigError, PatchFileError):
        return False
    assert found[0] == config and torch.equal(found[1].view(torch.int32), vectors.view(torch.int32))
    return True


@pytest.mark.parametrize("name", [CONFIG_NAME, TENSORS_NAME])
def test_every_byte_of_both_files_is_covered_or_means_the_same(telling_folder, name):
    config, vectors = read_patch_folder(telling_folder)
    path = telling_folder / name
    content = path.read_bytes()
    harmless, drawn = set(), random.Random(0)
    for at in range(len(content)):
        for flipped in (1, 32, drawn.randrange(1, 256)):  # the next letter, the other case, anything
            path.write_bytes(content[:at] + bytes([content[at] ^ flipped]) + content[at + 1 :])
            if same_meaning(config, vectors, telling_folder):
                harmless.add(content[at : at + 1])
    # White space of JSON is not covered, and `\u00e9` and `\u00E9` are one letter.
    assert harmless <= ({b" ", b"\n", b"e"} if name == CONFIG_NAME else set())
    path.write_bytes(content)
    assert same_meaning(config, vectors, telling_folder)


@pytest.mark.parametrize("name", [CONFIG_NAME, TENSORS_NAME])
def test_every_byte_of_a_patch_of_the_usual_size_is_covered(tmp_path, name):
    config = PolicyPatchConfig(risk="toxicity", base_fingerprint={"weights": {str(n): "QUJD" for n in range(200)}})
    vectors = torch.randn(50, 4096, generator=torch.Generator().manual_seed(0))
    config = write_patch_folder(tmp_path, config, vectors)
    content = (tmp_path / name).read_bytes()
    drawn = random.Random(0)
    places = {0, 7, 8, 100, 250, 390, 400, len(content) - 1, *(drawn.randrange(len(content)) for _ in range(150))}
    with open(tmp_path / name, "r+b") as file:
        for at in places:
            flipped = content[at] ^ drawn.randrange(1, 256)
            for byte in (flipped, content[at]):
                file.seek(at)
                file.write(bytes([byte]))
                file.flush()
                if byte == flipped:
                    assert not same_meaning(config, vectors, tmp_path) or content[at : at + 1].isspace()
    assert same_meaning(config, vectors, tmp_path)


@pytest.mark.parametrize("name", [CONFIG_NAME, TENSORS_NAME])
def test_each_file_cut_at_a_hundred_places_is_refused(telling_folder, name):
    config, vectors = read_patch_folder(telling_folder)
    content = (telling_folder / name).read_bytes()
    assert same_meaning(config, vectors, telling_folder)
    for end in sorted({round(step * len(content) / 100) for step in range(100)} | {len(content) - 1}):
        (telling_folder / name).write_bytes(content[:end])
        assert not same_meaning(config, vectors, telling_folder) or content[end:] == b"\n", end


@pytest.mark.parametrize("field", [field.name for field in fields(PolicyPatchConfig)])
def test_no_field_of_the_configuration_can_be_changed_added_or_left_out(telling_folder, field):
    path = telling_folder / CONFIG_NAME
    values = json.loads(path.read_text())
    others = {
        "num_virtual_tokens": 4, "hidden_size": 9, "placement": "after_bos", "init": "random", "bos_token_id": 11,
        "init_seed": 18, "composed_from": None, "filtered_by": ["lexical"], "base_fingerprint": {**BASE, "more": 1},
        "patch_version": "1.10.1", "format_version": 2, "conflicts": ["risk:toxicity"], "order": None,
        "interference": [{**MEASURED, "stacked": 0.1}], "rebased_from": {"sha256": "ee" * 32},
    }  # fmt: skip
    changed = {**values, field: others.get(field, "another")}
    lacking = {key: value for key, value in values.items() if key != field}
    for one in (changed, lacking):
        path.write_text(json.dumps(one, indent=2) + "\n")
        with pytest.raises((PatchFileError, ConfigError)):
            read_patch_folder(telling_folder)
    path.write_text(json.dumps(dict(reversed(values.items()))))
    read_patch_folder(telling_folder)  # another order, other white space


def test_a_configuration_that_was_altered_is_told_from_an_altered_tensor_file(folder):
    text = (folder / CONFIG_NAME).read_text()
    (folder / CONFIG_NAME).write_text(text.replace('"toxicity"', '"toxicitY"'))
    with pytest.raises(
        PatchFileError, match=f"{CONFIG_NAME} has the hash .*; {TENSORS_NAME} beside it says .* altered"
    ):
        read_patch_folder(folder)


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
def test_a_cut_file_is_called_so(folder, name, share):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises((PatchFileError, ConfigError), match=r"truncated|damaged"):
        read_patch_folder(folder)


def test_a_configuration_that_is_no_text_is_refused(folder):
    (folder / CONFIG_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PatchFileError, match="has the byte 0xff at 0, which is not UTF-8"):
        read_patch_folder(folder)


def test_a_huge_tensor_file_is_not_read(folder):
    with open(folder / TENSORS_NAME, "r+b") as file:
        file.truncate(10**10)  # sparse: takes no room on the disk
    with pytest.raises(PatchFileError, match=r"has 10,000,000,000 bytes; .* allows at most 65,632. It was not read"):
        read_patch_folder(folder)


def test_no_configuration_makes_a_huge_tensor_file_allowed(folder, monkeypatch):
    values = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**values, "num_virtual_tokens": 10**9, "hidden_size": 10**9}))
    with open(folder / TENSORS_NAME, "r+b") as file:
        file.truncate(10**10)
    with pytest.raises(PatchFileError, match=r"has 10,000,000,000 bytes; .* at most 1,073,741,824. It was not read"):
        read_patch_folder(folder)
    monkeypatch.setattr(patch_folder, "LARGEST_TENSORS", 200)
    with pytest.raises(PatchFileError, match=r"The vectors take \d+ bytes; a patch has at most 200"):
        write_patch_folder(folder.with_name("new"), *patch(2))


def test_a_huge_configuration_is_not_read(folder):
    with open(folder / CONFIG_NAME, "r+b") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(PatchFileError, match="has more than 4,194,304 bytes; it was not read"):
        read_patch_folder(folder)


def test_a_value_that_could_not_be_read_again_is_not_written(folder):
    for value in (float("inf"), 2**70, object(), {1: 2, "1": 3}, "\ud800"):
        with pytest.raises(ConfigError, match=r"The configuration (is no valid JSON|holds a value that JSON does not)"):
            write_patch_folder(folder, PolicyPatchConfig(base_fingerprint={"a": value}), torch.ones(SHAPE))
    with pytest.raises(ConfigError, match=r"The configuration has 5,\d+,\d+ bytes; expected at most 4,194,304"):
        write_patch_folder(folder, PolicyPatchConfig(risk="r" * 5 * 10**6), torch.ones(SHAPE))
    assert number_in(folder) == 1


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


def test_a_first_save_that_is_killed_leaves_the_patch_as_soon_as_its_vectors_are_there(tmp_path):
    for at in range(1, 5):
        assert save_and_kill(tmp_path / str(at), 1, at, half=False)
        if at < 4:
            with pytest.raises(PatchNotFoundError):
                read_patch_folder(tmp_path / str(at))
        else:
            assert number_in(tmp_path / str(at)) == 1
        write_patch_folder(tmp_path / str(at), *patch(2))
        assert number_in(tmp_path / str(at)) == 2 and len(list((tmp_path / str(at)).iterdir())) == 2


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
    assert len(list(pending_files(folder / CONFIG_NAME))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(PatchSaveError, match="full"):
            write_patch_folder(folder, *patch(3))
    assert number_in(folder) == 2


def test_a_pending_file_of_anyone_else_does_no_harm(folder):
    name = f"{CONFIG_NAME}.{'0' * 32}.pending"
    for content in (b"", b"\xff\xfe", b"{}", b"[" * 100_000):
        (folder / name).write_bytes(content)
        assert number_in(folder) == 1
    write_patch_folder(folder, *patch(2))
    assert number_in(folder) == 2 and not (folder / name).exists()


def test_a_link_under_a_pending_name_is_not_written_through(folder, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    for name in (CONFIG_NAME, TENSORS_NAME):
        for ending in (".pending", f".{'0' * 32}.pending", ".tmp"):
            (folder / (name + ending)).symlink_to(tmp_path / "elsewhere")
    write_patch_folder(folder, *patch(2))
    assert number_in(folder) == 2 and (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_files_that_are_links_are_replaced_and_a_folder_that_is_a_link_is_written_to(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    for name in (CONFIG_NAME, TENSORS_NAME):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert number_in(tmp_path / "link") == 1
    write_patch_folder(tmp_path / "link", *patch(2))
    assert number_in(folder) == 2 and number_in(tmp_path) == 1 and (tmp_path / "link").is_symlink()


KILLER = """
import os, random, signal, sys, time
from tests.patch.test_folder import number_in, patch, write_patch_folder

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
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("read after every kill")
    assert int(done.stdout.split()[-1]) > 0, "no kill fell into a save: the loop proved nothing"


# Others who save meanwhile; see also `test_two_writers.py`


def between(monkeypatch, action, times: int = 1) -> list:
    """Do something in the middle of the next reads, after the configuration was read and before the vectors are."""
    pair_with, done, acting = patch_folder._pair_with, [], []

    def interrupted(*args):
        if len(done) < times and not acting:  # a save reads, too
            done.append(None)
            acting.append(None)
            action()
            acting.clear()
        return pair_with(*args)

    monkeypatch.setattr(patch_folder, "_pair_with", interrupted)
    return done


def no_locks(monkeypatch) -> None:
    def refuse(folder):
        raise NoLockHere("as on NFS")

    monkeypatch.setattr(folder_lock, "_try", refuse)


@pytest.mark.parametrize("locks", [True, False])
def test_a_save_in_the_middle_of_a_read_is_not_taken_for_damage(folder, monkeypatch, locks):
    if not locks:
        no_locks(monkeypatch)
    saved = iter(range(2, 9))
    done = between(monkeypatch, lambda: write_patch_folder(folder, *patch(next(saved))), times=1 if locks else 3)
    assert number_in(folder) == 1 + len(done)


def test_a_larger_patch_that_comes_in_the_middle_of_a_read_is_not_too_large(folder, monkeypatch):
    larger = PolicyPatchConfig(), torch.ones(1000, 1000)
    between(monkeypatch, lambda: write_patch_folder(folder, *larger))
    assert torch.equal(read_patch_folder(folder)[1], larger[1])


def test_between_the_renames_of_another_the_newer_patch_is_read(folder, monkeypatch):
    seen, replace = [], os.replace

    def looking(source, target):
        seen.append(number_in(folder))
        replace(source, target)
        seen.append(number_in(folder))

    monkeypatch.setattr(os, "replace", looking)
    write_patch_folder(folder, *patch(2))
    assert seen == [1, 2, 2, 2]


@pytest.mark.parametrize("locks", [True, False])
def test_damage_is_told_at_once_where_locks_are_and_after_a_moment_elsewhere(folder, monkeypatch, locks):
    if not locks:
        no_locks(monkeypatch)
    content = (folder / TENSORS_NAME).read_bytes()
    (folder / TENSORS_NAME).write_bytes(content[:-1] + b"x")
    pauses, start = [], time.monotonic()
    monkeypatch.setattr(patch_folder, "pause", lambda: pauses.append(time.sleep(0.001)))
    with pytest.raises(PatchFileError, match="altered or damaged"):
        read_patch_folder(folder)
    assert pauses == [] if locks else time.monotonic() - start > 0.1 and pauses


@pytest.mark.parametrize("locks", [True, False])
def test_a_folder_that_is_written_without_a_break_is_not_called_altered(folder, monkeypatch, locks):
    if not locks:
        no_locks(monkeypatch)
    monkeypatch.setattr(patch_folder, "_PATIENCE", 0.3)
    saved = iter(range(2, 10**6))
    between(monkeypatch, lambda: write_patch_folder(folder, *patch(next(saved))), times=10**6)
    if locks:  # in another thread, whose lock is not the reader's own
        monkeypatch.setattr(patch_folder, "no_writer", lambda folder: contextlib.nullcontext(False))
    with pytest.raises(PatchFileError, match=r"was written to without a break for 0.3 seconds, .* Try again"):
        read_patch_folder(folder)


def test_who_waits_too_long_for_another_is_told(folder, monkeypatch):
    monkeypatch.setattr(patch_folder, "only_writer", partial(only_writer, patience=0.05))
    held, done = threading.Event(), threading.Event()

    def hold():
        with only_writer(folder):
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    with pytest.raises(PatchSaveError, match=r"another process has been writing there for 0.05 seconds.* is intact"):
        write_patch_folder(folder, *patch(2))
    done.set()
    thread.join()
    assert number_in(folder) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX permissions")
@pytest.mark.parametrize("damaged", [False, True])
def test_a_read_only_folder_is_read_and_left_as_it_is(folder, damaged):
    if damaged:
        path = folder / TENSORS_NAME
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    child = os.fork()
    if child == 0:  # root may write anywhere, so as somebody who may not
        with contextlib.suppress(BaseException):
            for path in (folder, *folder.iterdir()):
                path.chmod(0o555 if path.is_dir() else 0o444)
            for path in folder.parents:
                with contextlib.suppress(OSError):
                    path.chmod(path.stat().st_mode | 0o055)
            if os.geteuid() == 0:
                os.setuid(65534)
            try:
                read_patch_folder(folder)
                os._exit(0)
            except PatchFileError:
                os._exit(1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == int(damaged)
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())] == before
    folder.chmod(0o755)


def test_a_folder_in_the_place_of_a_file_is_our_error_and_nothing_is_lost(folder):
    for name in (TENSORS_NAME, CONFIG_NAME):
        (folder / name).rename(folder / "kept")
        (folder / name).mkdir()
        with pytest.raises(PatchSaveError, match=f"there is a folder of that name: '{name}'"):
            write_patch_folder(folder, *patch(2))
        (folder / name).rmdir()
        (folder / "kept").rename(folder / name)
        assert number_in(folder) == 1 and len(list(folder.iterdir())) == 2


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


def test_a_copy_of_a_folder_in_which_a_save_was_killed_is_whole(folder, tmp_path):
    assert save_and_kill(folder, 2, 4, half=False)
    copy_patch_folder(folder, tmp_path / "copy")
    assert number_in(tmp_path / "copy") == 2 and len(list((tmp_path / "copy").iterdir())) == 2
