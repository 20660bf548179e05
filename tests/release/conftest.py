"""A vendor's repositories on the Hub of loopback: a base, and a patch in several versions."""

import pytest
from huggingface_hub import HfApi

from policy_patch.config import CONFIG_NAME
from tests.hub.conftest import new_patch, put
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
