"""What goes wrong between this machine and the Hub, each case with one strict expectation.

A case states the class that is raised, what its text says to do, what then is in the cache, in the local folder and on
the server. For all of them: no token in anything that a traceback shows, and what is in the cache has its hash.
"""

import hashlib
import os
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub import HfApi, constants

from policy_patch.cli import parse
from policy_patch.cli import push as push_command
from policy_patch.errors import (
    ConfigError,
    DamagedDownloadError,
    HubAccessError,
    HubError,
    HubRevisionError,
    HubUnavailableError,
    PatchFileError,
    PatchNotFoundError,
    PublishConflictError,
)
from policy_patch.hub.fetch import HubOptions, git_blob_id, locate_patch, published_versions
from policy_patch.patch.folder import patch_files, read_patch_folder, write_patch_folder
from tests.hub.conftest import REPO, files_of, new_patch, put

CONFIG, TENSORS = "policy_patch_config.json", "policy_patch.safetensors"
WHOLE = {CONFIG, TENSORS}
UNCHANGED = "unchanged"
SECRETS = ("hf_alice", "hf_bob", "hf_read", "hf_wrong", "ü", "evil")


class World:
    """A machine with a local patch folder, and the Hub on loopback with version 1.0.0 of it."""

    def __init__(self, hub, base, tmp_path: Path, monkeypatch) -> None:
        self.hub, self.base, self.monkeypatch = hub, base, monkeypatch
        self.cache, self.folder = tmp_path / "hub-cache", tmp_path / "folder"
        model = new_patch(base, "1.0.0", seed=1)
        model.save_pretrained(self.folder)
        self.first = files_of(model)
        model.push_to_hub(REPO)
        self.of(self.cache, remove=True)
        hub.log.clear()

    @staticmethod
    def of(folder: Path, *, remove: bool = False) -> dict[str, bytes]:
        """Return the files below a folder; with `remove` leave none."""
        found = {
            str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_symlink() or path.is_file()
        }
        content = {name: path.read_bytes() for name, path in found.items() if path.exists()}
        for path in found.values() if remove else ():
            path.unlink()
        return content

    def pull(self, name: str = REPO, **options: Any) -> torch.Tensor:
        """Return the vectors of a patch of the Hub, as all ways of loading do."""
        return read_patch_folder(locate_patch(name, HubOptions(**options)).folder)[1]

    def push(self, *words: str, repo_id: str = REPO) -> Any:
        """Run `policy-patch push` on the local folder, and let its errors through."""
        return push_command.run(parse(["push", str(self.folder), repo_id, *words])[1])

    def change_vectors(self) -> None:
        """Let the local folder hold other vectors, of the same version."""
        config, vectors = read_patch_folder(self.folder)
        write_patch_folder(self.folder, config, vectors + 1)

    def server(self) -> dict[str, Any]:
        """Return what is on the server: of each repository branches, tags and whether it is private."""
        return {
            name: (dict(repo.branches), dict(repo.tags), dict(repo.pulls), repo.private, len(repo.commits))
            for (_, name), repo in self.hub.repos.items()
        }

    def cached(self) -> set[str]:
        """Return the names of files in the cache that can be read."""
        return {path.name for path in self.cache.rglob("snapshots/*/*") if path.exists()}


@dataclass(frozen=True)
class Case:
    """What a case is expected to do; `act` arranges it and returns what is then tried."""

    act: Callable[[World], Callable[[], Any]]
    raises: type[Exception] | None
    says: str
    cached: set[str]
    server: Callable[[World, dict[str, Any]], None] | str
    folder: Callable[[World], None] | str


CASES: dict[str, Case] = {}


def case(raises, says="", *, cached=frozenset(), server=UNCHANGED, folder=UNCHANGED):
    """Register a case."""

    def add(act):
        CASES[act.__name__] = Case(act, raises, says, set(cached), server, folder)
        return act

    return add


# Who may see what


@case(HubAccessError, r"no such repository.*Check the name; then run `hf auth login`.*or give `token=` in Python")
def a_repository_that_is_not_there(world):
    return lambda: world.pull("acme/none")


@case(HubAccessError, r"or the repository is private.*give `token=`")
def a_private_repository_without_a_token(world):
    world.hub.repos["models", REPO].private = True
    return lambda: world.pull(token=False)


@case(HubAccessError, r"or the repository is private.*the token \(if one was sent\)")
def a_private_repository_with_a_token_that_nobody_has(world):
    world.hub.repos["models", REPO].private = True
    return lambda: world.pull(token="hf_wrong")


@case(HubAccessError, r"it is gated\. Log in and ask for access on http.*/acme/tox-patch")
def a_gated_repository(world):
    world.hub.repos["models", REPO].gated = "manual"
    return lambda: world.pull(token="hf_bob")


@case(HubAccessError, r"`token=` has a letter that is not ASCII in place 4 of 4.*Copy it again")
def a_token_that_is_not_ascii(world):
    return lambda: world.pull(token="hf_ü")


@case(HubAccessError, r"The token of HF_TOKEN or `hf auth login` has a letter that is not ASCII.*Copy it again")
def a_token_of_the_environment_that_is_not_ascii(world):
    world.monkeypatch.setenv("HF_TOKEN", "hf_ü")
    return lambda: world.pull()


@case(HubAccessError, r"`token=` has a line break in place 9.*Copy it again")
def a_token_with_a_line_break(world):
    return lambda: world.pull(token="hf_alice\nX-Header: evil")


@case(HubAccessError, r"`token=` is empty.*Copy it again")
def an_empty_token_for_a_push(world):
    from policy_patch.hub.publishing import push_patch
    from policy_patch.hub.push import PushOptions

    config, files = patch_files(*read_patch_folder(world.folder))
    return lambda: push_patch(REPO, config, files, options=PushOptions(token=""))


@case(HubUnavailableError, r"the Hub answered 500 \(.*Request ID: Bearer \*\*\*.*Try again in a while")
def a_hub_that_repeats_the_token_in_its_error(world):
    words = {"X-Error-Message": "no luck with hf_bob", "X-Request-Id": "Bearer hf_bob"}
    world.hub.fault("paths-info", "status", status=500, times=100, headers=words)
    return lambda: world.pull(token="hf_bob")


# What is asked for


@case(HubRevisionError, r"no branch, tag or commit `v9\.0\.0`.*`policy-patch info acme/tox-patch` lists its versions")
def a_revision_that_is_not_there(world):
    return lambda: world.pull(f"{REPO}@9.0.0")


@case(HubRevisionError, r"`revision='\.\.'` cannot be a branch.*leave it out for the main branch")
def a_revision_of_two_dots(world):
    return lambda: world.pull(revision="..")


@case(HubRevisionError, r"cannot be a branch.*Give a name like `main` or `v1\.2\.0`")
def a_revision_of_two_dots_behind_the_name(world):
    return lambda: world.pull(f"{REPO}@../../other")


@case(PatchNotFoundError, r"`subfolder='\.\./other'` leads out of the repository; give a folder inside it")
def a_subfolder_that_leads_out(world):
    return lambda: world.pull(subfolder="../other")


@case(HubError, r"neither a folder nor a name like `org/tox-patch`")
def a_name_that_no_repository_has(world):
    return lambda: world.pull("acme/tox--patch")


@case(PatchNotFoundError, r"does not exist. Give a folder .* or a Hub id like `org/patch`")
def a_name_of_other_letters(world):
    return lambda: world.pull("acmé/tox-patch\n")


@case(PatchNotFoundError, r"`https://\*\*\*@huggingface\.co/acme/tox-patch` is an address; give the name")
def an_address_with_a_token_in_it(world):
    return lambda: world.pull("https://alice:hf_alice@huggingface.co/acme/tox-patch")


@case(HubError, r"gave '\.\./\.\./x' as a commit of `acme/tox-patch`, which is not a commit. Try again")
def a_hub_that_names_no_commit(world):
    from types import SimpleNamespace

    answer = SimpleNamespace(resolved="../../x")
    world.monkeypatch.setattr(HfApi, "resolve_revision", lambda *args, **kwargs: answer)
    return lambda: world.pull()


@case(PatchNotFoundError, r"PEFT adapter.*Load it with PEFT: `PeftModel\.from_pretrained`")
def a_peft_adapter(world):
    put({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "acme/lora")
    return lambda: world.pull("acme/lora")


@case(PatchNotFoundError, r"a whole model.*Give it as the base, and the patch's own repository here")
def a_whole_model(world):
    put({"config.json": b"{}", "model.bin": b"x"}, "acme/model")
    return lambda: world.pull("acme/model")


@case(
    PatchNotFoundError, r"the patch is incomplete: policy_patch\.safetensors is missing. Ask its owner to push it again"
)
def half_a_patch(world):
    put({CONFIG: world.first[CONFIG]}, "acme/half")
    return lambda: world.pull("acme/half")


@case(PatchFileError, r"has 5,\d{3},\d{3} bytes; a patch like this one has at most .*not fetched")
def a_configuration_far_too_large(world):
    put({**world.first, CONFIG: world.first[CONFIG] + b" " * 5_100_000})
    return lambda: world.pull()


@case(PatchFileError, r"bytes; a patch like this one has at most .*not fetched", cached={CONFIG})
def vectors_far_too_large(world):
    put({**world.first, TENSORS: world.first[TENSORS] + bytes(2**20)})
    return lambda: world.pull()


# The way


def _request_of_vectors(world) -> str:
    return f"GET /_cdn/{hashlib.sha256(world.first[TENSORS]).hexdigest()}"


@case(None, cached=WHOLE)
def damaged_once_on_the_way(world):
    world.hub.fault(_request_of_vectors(world), "corrupt", times=1, at=150)
    return lambda: world.pull()


@case(DamagedDownloadError, r"arrived damaged twice.*not loaded.*Try another network", cached={CONFIG})
def damaged_twice_on_the_way(world):
    world.hub.fault(_request_of_vectors(world), "corrupt", times=100, at=150)
    return lambda: world.pull()


@case(HubUnavailableError, r"failed or broke off.*No partial file was kept; try again", cached={CONFIG})
def dropped_in_the_middle(world):
    world.hub.fault(_request_of_vectors(world), "drop", times=100, at=100)
    return lambda: world.pull()


@case(HubUnavailableError, r"failed or broke off.*No partial file was kept; try again", cached={CONFIG})
def reset_in_the_middle(world):
    world.hub.fault(_request_of_vectors(world), "reset", times=100, at=100)
    return lambda: world.pull()


@case(HubUnavailableError, r"failed or broke off.*try again", cached={CONFIG})
def a_shorter_file_that_says_it_is_whole(world):
    world.hub.fault(_request_of_vectors(world), "truncate", times=100, at=100)
    return lambda: world.pull()


@case(HubUnavailableError, r"the Hub answered 429.*Try again in a while")
def asked_too_often(world):
    world.hub.fault("GET /api/models", "status", status=429, times=100)
    return lambda: world.pull()


@case(HubUnavailableError, r"the Hub answered 503.*Try again in a while", cached={CONFIG})
def overloaded(world):
    world.hub.fault(_request_of_vectors(world), "status", status=503, times=100)
    return lambda: world.pull()


@case(
    HubUnavailableError, r"HF_HUB_OFFLINE is set.*Fetch it once with a connection: `policy-patch pull acme/tox-patch`"
)
def offline_without_a_copy(world):
    world.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return lambda: world.pull()


@case(
    HubUnavailableError,
    r"not in the cache.*`local_files_only=True` in Python; `--offline` of `policy-patch apply`.*fetch it once without",
)
def the_cache_alone_without_a_copy(world):
    return lambda: world.pull(local_files_only=True)


def _moved(world: "World", before: dict[str, Any]) -> None:
    assert world.server()[REPO][4] == before[REPO][4] + 1


@case(None, cached=WHOLE, server=_moved)
def a_branch_that_moves_between_two_files(world):
    import policy_patch.hub.fetch as module

    download, moved = module.hf_hub_download, []

    def download_and_move(*args, **kwargs):
        path = download(*args, **kwargs)
        if not moved:
            moved.append(put(files_of(new_patch(world.base, "1.1.0", seed=2))))
        return path

    world.monkeypatch.setattr(module, "hf_hub_download", download_and_move)
    return lambda: world.pull()


# The cache


@case(None, cached=WHOLE)
def a_link_of_the_cache_that_leads_nowhere(world):
    world.pull()
    for path in world.cache.rglob("blobs/*"):
        path.unlink()
    return lambda: world.pull()


@case(HubUnavailableError, r"not in the cache.*fetch it once without", cached={CONFIG})
def the_cache_alone_with_a_link_that_leads_nowhere(world):
    world.pull()
    next(world.cache.rglob(TENSORS)).resolve().unlink()
    return lambda: world.pull(local_files_only=True)


@case(None, cached=WHOLE)
def a_flipped_byte_in_the_cache(world):
    world.pull()
    for path in world.cache.rglob("blobs/*"):
        path.write_bytes(path.read_bytes()[:-3] + b"\0\0\0")
    return lambda: world.pull()


@case(HubUnavailableError, r"not in the cache", cached={CONFIG})
def a_flipped_byte_in_the_cache_alone(world):
    world.pull()
    blob = next(world.cache.rglob(TENSORS)).resolve()
    blob.write_bytes(blob.read_bytes()[:-3] + b"\0\0\0")
    return lambda: world.pull(local_files_only=True)


@case(HubError, r"Is a directory.*Set HF_HUB_CACHE to another folder, or give `cache_dir=` in Python", cached=WHOLE)
def a_folder_where_the_cache_had_a_file(world):
    world.pull()
    blob = next(world.cache.rglob(TENSORS)).resolve()
    blob.unlink()
    blob.mkdir()
    return lambda: world.pull()


# Pushing: rights and places


@case(HubAccessError, r"the token does not allow this.*Use a token with write access", cached={CONFIG, "README.md"})
def a_token_that_may_only_read(world):
    world.monkeypatch.setenv("HF_TOKEN", "hf_read")
    world.change_vectors()
    return lambda: world.push("--version", "1.1.0")


@case(PublishConflictError, r"is public, but `private=True` was given. Nothing was published. Make it private")
def private_asked_for_where_all_is_public(world):
    return lambda: world.push("--version", "1.1.0", "--private")


@case(
    HubError,
    r"not the name of a repository; expected a name like `org/tox-patch`.*A version is given by `patch_version`",
)
def a_repository_with_a_version_in_its_name(world):
    return lambda: world.push(repo_id=f"{REPO}@v1.1.0")


@case(HubError, r"`https://\*\*\*@huggingface\.co/acme/p` is not the name of a repository; expected a name like")
def a_push_to_an_address_with_a_token_in_it(world):
    return lambda: world.push(repo_id="https://alice:hf_alice@huggingface.co/acme/p")


@case(HubError, r"not the name of a repository; expected a name like `org/tox-patch`")
def a_repository_of_other_letters(world):
    return lambda: world.push(repo_id="acme/töx")


@case(HubRevisionError, r"cannot be a branch")
def a_push_to_a_revision_of_two_dots(world):
    return lambda: world.push("--version", "1.1.0", "--revision", "..")


@case(HubRevisionError, r"looks like a commit or the tag of a version.*Give a branch another name")
def a_branch_that_is_named_like_a_version(world):
    return lambda: world.push("--version", "1.1.0", "--revision", "v1.0.0")


@case(PatchNotFoundError, r"leads out of the repository; give a folder inside it")
def a_push_to_a_subfolder_that_leads_out(world):
    return lambda: world.push("--subfolder", "../../other")


@case(ConfigError, r"names its base `/home/anna/base`.*`--base org/model` of .*Nothing was published")
def a_base_that_is_a_folder_of_this_machine(world):
    config, vectors = read_patch_folder(world.folder)
    config.base_model_name_or_path = "/home/anna/base"
    write_patch_folder(world.folder, config, vectors)
    return lambda: world.push("--version", "1.1.0")


# Pushing: versions


@case(PublishConflictError, r"holds version 1\.0\.0, newer than this 0\.9\.0.*Raise `patch_version`", cached={CONFIG})
def a_version_that_goes_down(world):
    return lambda: world.push("--version", "0.9.0")


@case(
    PublishConflictError,
    r"Version 1\.0\.0 is published .* with other vectors.*never changes.*Raise `patch_version`",
    cached=WHOLE,
)
def a_version_that_is_published_with_other_vectors(world):
    world.change_vectors()
    return lambda: world.push()


@case(PublishConflictError, r"not its newest commit any more. Look at the newer commits", cached={CONFIG, "README.md"})
def a_stale_parent(world):
    stale = HfApi().repo_info(REPO).sha
    put({"notes.txt": b"by somebody else"})
    return lambda: world.push("--version", "1.1.0", "--parent_commit", stale)


def _only_theirs(world: World, before: dict[str, Any]) -> None:
    branches, tags, *_, commits = world.server()[REPO]
    assert tags == before[REPO][1] and commits == before[REPO][4] + 1
    assert world.hub.repos["models", REPO].commits[branches["main"]]["message"] == "put"


@case(
    PublishConflictError,
    r"Somebody published in `acme/tox-patch` at the same moment.*push again",
    cached={CONFIG, "README.md"},
    server=_only_theirs,
)
def somebody_publishes_at_the_same_moment(world):
    import policy_patch.hub.push as module

    commit, done = module._commit, []

    def first_theirs(*args, **kwargs):
        if not done:
            done.append(put(files_of(new_patch(world.base, "1.0.5", seed=9))))
        return commit(*args, **kwargs)

    world.monkeypatch.setattr(module, "_commit", first_theirs)
    return lambda: world.push("--version", "1.1.0")


def _published_once(world: World, before: dict[str, Any]) -> None:
    history = HfApi().list_repo_commits(REPO)
    assert [entry.title for entry in history][:2] == ["Publish version 1.1.0", "Publish version 1.0.0"]
    assert published_versions(REPO)["1.1.0"] == history[0].commit_id


def _is_1_1_0(world: World) -> None:
    assert read_patch_folder(world.folder)[0].patch_version == "1.1.0"


@case(None, cached={CONFIG, "README.md"}, server=_published_once, folder=_is_1_1_0)
def the_answer_to_the_commit_is_lost(world):
    world.hub.fault(rf"POST /api/models/{REPO}/commit/", "close", times=1)
    return lambda: world.push("--version", "1.1.0")


@case(HubUnavailableError, r"broke off.*Nothing was written; push again", cached={CONFIG, "README.md"})
def a_commit_that_does_not_arrive(world):
    def broken(*args, **kwargs):
        raise httpx2.ReadError("reset while Bearer hf_alice was sent")

    world.monkeypatch.setattr(HfApi, "create_commit", broken)
    return lambda: world.push("--version", "1.1.0")


def _published_without_its_tag(world: World, before: dict[str, Any]) -> None:
    branches, tags, *_ = world.server()[REPO]
    assert tags == before[REPO][1] and branches != before[REPO][0]
    world.hub.faults.clear()
    world.push("--version", "1.1.0")
    _published_once(world, before)
    _is_1_1_0(world)


@case(
    HubUnavailableError,
    r"Cannot tag the version .* is in `acme/tox-patch` already, without that tag. .* it makes no second",
    cached={CONFIG, "README.md"},
    server=_published_without_its_tag,
    folder=lambda world: None,
)
def a_tag_that_cannot_be_set(world):
    world.hub.fault("POST .*/tag/", "status", status=500, times=100)
    return lambda: world.push("--version", "1.1.0")


def _their_tag_stands(world: World, before: dict[str, Any]) -> None:
    tags = published_versions(REPO)
    assert world.hub.repos["models", REPO].commits[tags["1.1.0"]]["message"] == "put"


@case(
    PublishConflictError,
    r"Version 1\.1\.0 is published .*with other vectors.* is in `acme/tox-patch` already, without that tag",
    cached={CONFIG, "README.md"},
    server=_their_tag_stands,
)
def a_tag_that_somebody_sets_meanwhile(world):
    def theirs_first(api, repo_id, *, tag, **kwargs):
        put_on_a_branch = HfApi(token="hf_alice")
        put_on_a_branch.create_branch(REPO, branch="theirs")
        commit = put(files_of(new_patch(world.base, "1.1.0", seed=9)), revision="theirs")
        create(api, repo_id, tag=tag, revision=commit)
        return create(api, repo_id, tag=tag, **kwargs)

    create = HfApi.create_tag
    world.monkeypatch.setattr(HfApi, "create_tag", theirs_first)
    return lambda: world.push("--version", "1.1.0")


def _card_is_theirs(world: World, before: dict[str, Any]) -> None:
    _published_after(world, "Publish version 1.1.0")
    repo = world.hub.repos["models", REPO]
    card = repo.commits[repo.branches["main"]]["tree"]["README.md"]
    assert world.hub.blob(card.sha) == b"---\nlicense: mit\n---\nOurs.\n"


def _published_after(world: World, title: str) -> None:
    assert HfApi().list_repo_commits(REPO)[0].title == title


@case(None, cached={CONFIG, "README.md"}, server=_card_is_theirs, folder=_is_1_1_0)
def a_card_that_people_rewrote(world):
    put({"README.md": b"---\nlicense: mit\n---\nOurs.\n"})
    return lambda: world.push("--version", "1.1.0")


def test_there_are_at_least_28():
    assert len(CASES) >= 28


@pytest.fixture
def world(hub, base, tmp_path, monkeypatch):
    return World(hub, base, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_a_case(world, name, caplog):
    expected = CASES[name]
    act = expected.act(world)
    before, folder = world.server(), world.of(world.folder)
    error = None
    try:
        act()
    except Exception as raised:
        error = raised
    assert type(error) is (expected.raises or type(None)), error and "".join(traceback.format_exception(error))
    said = caplog.text
    if error is not None:
        assert re.search(expected.says, str(error), re.DOTALL), str(error)
        said += said_in(error)
    assert not [secret for secret in SECRETS if secret in said]
    assert world.cached() == expected.cached
    check_hashes(world.cache)
    if expected.folder == UNCHANGED:
        assert world.of(world.folder) == folder
    else:
        expected.folder(world)
    if expected.server == UNCHANGED:
        assert world.server() == before
    else:
        expected.server(world, before)


def said_in(error: BaseException) -> str:
    """Return what is shown of an error and of all behind it; the lines of this file are not."""
    said, todo, seen = "", [error], set()
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            said += f"{one}\n{one!r}\n{one.args}\n"
            todo += [one.__cause__, one.__context__]
    return said


def check_hashes(cache: Path) -> None:
    """Each file that the cache shows has the hash that it is named by."""
    for path in cache.rglob("snapshots/*/*"):
        if path.is_file():
            content, name = path.read_bytes(), os.path.basename(os.readlink(path))
            assert name in (git_blob_id(content), hashlib.sha256(content).hexdigest()), path
