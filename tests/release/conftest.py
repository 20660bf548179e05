"""A vendor's repositories on the Hub of loopback (a base, a patch in several versions), and models of the lab."""

from dataclasses import replace

import pytest
from huggingface_hub import HfApi

from policy_patch.config import CONFIG_NAME
from policy_patch.lab import load_lab_base, load_lab_teacher, load_lab_tokenizer
from policy_patch.release.scan_lab import lab_scan_prompts
from policy_patch.release.scan_prompts import SETS
from tests.hub.conftest import new_patch, put
from tests.release.hostile import train_hostile_patch
from tests.tiny_models import tiny_model, tiny_tokenizer

TOX, BIAS, BASE = "acme/tox-patch", "acme/bias-patch", "acme/base"


@pytest.fixture
def base():
    """The base of all patches here."""
    return tiny_model("llama")


def publish(version: str, repo_id: str = TOX, seed: int | None = None, **config) -> str:
    """Publish a patch for the tiny base, and return the commit."""
    seed = sum(map(ord, version)) if seed is None else seed
    return new_patch(tiny_model("llama"), version, seed=seed, **config).push_to_hub(repo_id).oid


def publish_base(tmp_path) -> str:
    """Publish the tiny base, and return the commit."""
    folder = tmp_path / "base-files"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return put({path.name: path.read_bytes() for path in folder.iterdir()}, BASE)


@pytest.fixture
def vendor(hub, tmp_path, monkeypatch):
    """Publish the base and version 1.0.0 of both patches, and work in an empty folder."""
    publish_base(tmp_path)
    for repo_id in (TOX, BIAS):
        publish("1.0.0", repo_id, seed=len(repo_id))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return hub


def head(repo_id: str) -> str:
    """Return the newest commit of a repository."""
    return HfApi().repo_info(repo_id).sha


def move_tag(hub, tag: str, commit: str, repo_id: str = TOX) -> None:
    """Let a tag name another commit, as `git tag -f` does."""
    hub.repos["models", repo_id].tags[tag] = commit


def edit(folder, old: str, new: str) -> None:
    """Change the configuration in a folder."""
    path = folder / CONFIG_NAME
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture(scope="session")
def lab_base():
    return load_lab_base()


@pytest.fixture(scope="session")
def lab_teacher():
    return load_lab_teacher()


@pytest.fixture(scope="session")
def lab_tokenizer():
    return load_lab_tokenizer()


@pytest.fixture(scope="session")
def hostile_patch(tmp_path_factory):
    """Folder of a patch that makes the lab's safe teacher comply with mischief."""
    return train_hostile_patch(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def few():
    """A quarter of the texts of each set of the lab's scan, for a quarter of the time."""
    prompts = lab_scan_prompts()
    return replace(prompts, **{name: getattr(prompts, name)[::4] for name in (*SETS, "neutral")})
