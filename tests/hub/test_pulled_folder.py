"""Tests of `hub.pulled_folder`: one version and nothing else, mended if damaged, and nobody's work lost."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from policy_patch import PolicyPatchConfig
from policy_patch.errors import PatchFileError, PatchSaveError
from policy_patch.hub import pulled_folder
from policy_patch.hub.fetch import CARD_NAME, EVALUATION_NAME, PatchLocation
from policy_patch.hub.pulled_folder import RECORD_NAME, pull_into
from policy_patch.patch.folder import CONFIG_NAME, TENSORS_NAME, read_patch_folder, write_patch_folder

SHAPE = (3, 8)
PATCH = {CONFIG_NAME, TENSORS_NAME}


def published(folder: Path, number: int, *, card: bool = True, report: bool = False) -> PatchLocation:
    """Return version `number`, as it lies in the cache."""
    folder = folder / f"cache-{number}"
    write_patch_folder(folder, PolicyPatchConfig(patch_version=f"{number}.0.0"), torch.full(SHAPE, float(number)))
    if card:
        (folder / CARD_NAME).write_text(f"card {number}")
    if report:
        (folder / EVALUATION_NAME).write_text(f"report {number}")
    return PatchLocation(folder, "acme/tox-patch", f"{number}" * 40)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def number_in(folder: Path) -> int:
    config, vectors = read_patch_folder(folder)
    assert config.patch_version == f"{int(vectors[0, 0])}.0.0"
    return int(vectors[0, 0])


def assert_is(folder: Path, location: PatchLocation) -> None:
    """The folder has the files of a version, byte for byte, and a record, and nothing else."""
    assert names(folder) == names(location.folder) | {RECORD_NAME}
    for name in names(location.folder):
        assert (folder / name).read_bytes() == (location.folder / name).read_bytes()


@pytest.fixture
def one(tmp_path):
    return published(tmp_path, 1, report=True)


@pytest.fixture
def two(tmp_path):
    return published(tmp_path, 2)


@pytest.fixture
def folder(tmp_path, one):
    """A folder with version 1, pulled."""
    pull_into(one, tmp_path / "tox-patch")
    return tmp_path / "tox-patch"


def test_a_version_comes_whole_and_the_record_says_which(folder, one):
    assert_is(folder, one)
    record = json.loads((folder / RECORD_NAME).read_text())
    assert (record["repo_id"], record["commit"]) == ("acme/tox-patch", "1" * 40)
    assert set(record["files"]) == {*PATCH, CARD_NAME, EVALUATION_NAME}


def test_nothing_of_the_older_version_stays_beside_the_newer_one(folder, one, two):
    for location, before in ((two, "1.0.0"), (one, "2.0.0"), (one, "1.0.0")):
        pulled = pull_into(location, folder)
        assert (pulled.before, pulled.kept) == (before, None)
        assert_is(folder, location)


# Damage


@pytest.mark.parametrize("name", sorted(PATCH))
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_damaged_patch_is_mended(folder, one, two, name, damage, version, recorded):
    path = folder / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-9], "flipped": content.replace(b'"', b"?", 1), "empty": b""}[damage])
    if not recorded:  # as of somebody who copied the two files alone
        for beside in (RECORD_NAME, CARD_NAME, EVALUATION_NAME):
            (folder / beside).unlink()
    if not recorded and version == 2:  # nothing says that it ever was published
        with pytest.raises(PatchSaveError, match="maybe unpublished work"):
            pull_into(two, folder)
        return
    pulled = pull_into({1: one, 2: two}[version], folder)
    assert (pulled.before, pulled.kept) == (None, None)
    assert_is(folder, {1: one, 2: two}[version])


def test_both_files_damaged_are_mended_where_a_pull_put_them(folder, two):
    for name in PATCH:
        (folder / name).write_bytes(b"\0" * 100)
    pull_into(two, folder)
    assert_is(folder, two)


def test_a_damaged_version_in_the_cache_changes_nothing(folder, two):
    (two.folder / TENSORS_NAME).write_bytes(b"")
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(PatchFileError):
        pull_into(two, folder)
    with pytest.raises(PatchFileError):
        pull_into(two, folder.with_name("new"))
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert not folder.with_name("new").exists()


# Work of others


def trained(folder: Path) -> None:
    """As a training leaves it."""
    for name in ("training_run.json", "training_report.md", "pairs.jsonl", "sft/training_log.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "latest").symlink_to("sft")


WORK = {
    "a patch of one's own": lambda folder: write_patch_folder(folder, PolicyPatchConfig(), torch.zeros(SHAPE)),
    "another version number": lambda folder: write_patch_folder(
        folder, PolicyPatchConfig(patch_version="9.0.0"), torch.full(SHAPE, 1.0)
    ),
    "a training": trained,
    "an edited card": lambda folder: (folder / CARD_NAME).write_text("mine"),
    "a report": lambda folder: (folder / "evaluation.md").write_text("mine"),
    "a folder": lambda folder: (folder / ".eval_results").mkdir(),
    "a hidden file": lambda folder: (folder / ".notes").write_text("mine"),
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("recorded", [True, False])
def test_work_that_was_not_pulled_is_refused_and_with_overwrite_kept_whole(folder, two, work, recorded):
    WORK[work](folder)
    if not recorded:
        (folder / RECORD_NAME).unlink()
    before = listing(folder)
    with pytest.raises(
        PatchSaveError, match=r"maybe unpublished work: .*`--output_dir pulled/tox-patch`.*`--overwrite`"
    ):
        pull_into(two, folder)
    assert listing(folder) == before and len(list(folder.parent.glob("tox-patch*"))) == 1
    pulled = pull_into(two, folder, overwrite=True)
    assert_is(folder, two)
    assert listing(pulled.kept) == before
    assert pulled.kept.parent == folder.parent and pulled.kept.name.startswith("tox-patch.before-pull-")
    assert pull_into(two, folder).kept is None, "the next one needs no word"


def listing(folder: Path) -> dict[str, bytes | str]:
    """Return all that is below a folder, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = os.readlink(path) if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
    return found


def test_work_in_a_damaged_folder_is_work(folder, two):
    trained(folder)
    (folder / TENSORS_NAME).write_bytes(b"")
    with pytest.raises(PatchSaveError, match="maybe unpublished work"):
        pull_into(two, folder)


def test_the_same_patch_without_a_record_is_no_work(tmp_path, one):
    shutil.copytree(one.folder, tmp_path / "mine")
    pull_into(one, tmp_path / "mine")
    assert_is(tmp_path / "mine", one)


@pytest.mark.parametrize("record", [b"", b"[]", b'{"files": 3}', b'{"files": {"README.md": 3}}', b"[" * 10**5, b"\xff"])
def test_a_record_that_cannot_be_read_proves_nothing(folder, two, record):
    (folder / RECORD_NAME).write_bytes(record)
    with pytest.raises(PatchSaveError, match="maybe unpublished work"):
        pull_into(two, folder)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_something_else_is_never_replaced(tmp_path, one, overwrite):
    project = tmp_path / "project"
    project.mkdir()
    (project / CARD_NAME).write_text("of my project")
    with pytest.raises(PatchSaveError, match=r"has no patch and is not empty \(README.md\).*`--output_dir .*pulled`"):
        pull_into(one, project, overwrite=overwrite)
    assert listing(project) == {CARD_NAME: b"of my project"}


def test_a_file_and_a_folder_that_is_a_link(tmp_path, folder, one, two):
    with pytest.raises(PatchSaveError, match="Cannot pull into"):
        pull_into(two, folder / CARD_NAME)
    (tmp_path / "link").symlink_to(folder)
    pull_into(two, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and number_in(folder) == 2
    trained(folder)
    kept = pull_into(one, tmp_path / "link", overwrite=True).kept
    assert kept.name.startswith("tox-patch.") and number_in(folder) == 1 and number_in(kept) == 2


def test_what_is_kept_takes_no_room_and_has_a_name_of_its_own(folder, one, two, monkeypatch):
    monkeypatch.setattr(pulled_folder.time, "strftime", lambda form: "now")
    trained(folder)
    inode = (folder / "pairs.jsonl").stat().st_ino
    kept = pull_into(two, folder, overwrite=True).kept
    assert (kept / "pairs.jsonl").stat().st_ino == inode
    trained(folder)
    monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EPERM, "no hard links here")))
    again = pull_into(one, folder, overwrite=True).kept
    assert [kept.name, again.name] == ["tox-patch.before-pull-now", "tox-patch.before-pull-now-2"]
    assert (again / "pairs.jsonl").read_bytes() == (kept / "pairs.jsonl").read_bytes()


# Disks that fail, and kills


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it, so nothing is cleaned up."""


STEPS = ("fsync", "replace", "unlink", "rmdir", "link", "rename", "mkdir")


def pull_and_stop(location: PatchLocation, folder: Path, at: int, fault: BaseException, **options) -> bool:
    """Pull with a fault in place of call `at` to the system; return whether it came to that."""
    calls = []

    def stopping(name, call):
        def step(*args, **kwargs):
            calls.append(name)
            if len(calls) == at:
                raise fault
            return call(*args, **kwargs)

        return step

    with pytest.MonkeyPatch.context() as patched, contextlib.suppress(Killed, PatchSaveError):
        for name in STEPS:
            patched.setattr(os, name, stopping(name, getattr(os, name)))
        pull_into(location, folder, **options)
    return len(calls) >= at


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("fault", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full"])
def test_whenever_it_ends_the_folder_loads_and_the_next_pull_finishes(tmp_path, one, two, fault, overwrite):
    seen = []
    for at in range(1, 200):
        folder = tmp_path / str(at) / "tox-patch"
        pull_into(one, folder)
        if overwrite:
            trained(folder)
        work = listing(folder)
        stopped = pull_and_stop(two, folder, at, fault, overwrite=overwrite)
        seen.append(number_in(folder))
        everything = [listing(path) for path in folder.parent.iterdir()]
        assert all(
            any(found.get(name) == work[name] for found in everything)
            for name in set(work) - {RECORD_NAME}
            if overwrite
        )
        pull_into(two, folder, overwrite=overwrite)
        assert_is(folder, two)
        if not stopped:
            break
    assert not stopped and set(seen) == {1, 2} and len(seen) > 8


def test_a_first_pull_that_is_killed_is_finished_by_the_next(tmp_path, one):
    for at in range(1, 200):
        stopped = pull_and_stop(one, tmp_path / str(at), at, Killed())
        pull_into(one, tmp_path / str(at))
        assert_is(tmp_path / str(at), one)
        if not stopped:
            break
    assert not stopped and at > 8


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from tests.hub.test_pulled_folder import assert_is, number_in, published, pull_into

root = Path(sys.argv[1])
versions = [published(root, 1, report=True), published(root, 2)]
folder, interrupted = root / "tox-patch", 0
pull_into(versions[0], folder)
random.seed(0)
for attempt in range(25):
    children = []
    for first in (0, 1):
        child = os.fork()
        if child == 0:
            for turn in range(first, 10**6):
                pull_into(versions[turn % 2], folder)
        children.append(child)
    time.sleep(0.02 + random.random() / 20)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        interrupted += len(os.listdir(folder)) > 5
        assert number_in(folder) in (1, 2)
pull_into(versions[0], folder)
assert_is(folder, versions[0])
print("read after every kill; interrupted pulls:", interrupted)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL and fork are POSIX")
def test_two_processes_that_pull_and_are_killed_leave_a_patch_and_the_next_pull_finishes(tmp_path):
    words = [sys.executable, "-c", KILLER, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert int(done.stdout.split()[-1]) > 0, "no kill fell into a pull: the loop proved nothing"
