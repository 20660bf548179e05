"""Tests of a patch's way to the Hub and back: the same bits, from every kind of revision and place."""

import pytest
import torch
from huggingface_hub import HfApi, constants

from policy_patch import PolicyPatchModel
from policy_patch.hub.fetch import HubOptions, locate_patch, published_versions, split_id
from tests.hub.conftest import REPO, files_of, new_patch, put, requests
from tests.tiny_models import tiny_model


def same(one: PolicyPatchModel, other: PolicyPatchModel, ids: torch.Tensor) -> bool:
    """Whether two patched models have equal vectors and equal logits, bit for bit."""
    vectors = [torch.cat([m.patches[name] for name in m.active_patches]) for m in (one, other)]
    return torch.equal(*vectors) and torch.equal(one(input_ids=ids).logits, other(input_ids=ids).logits)


@pytest.fixture(params=["lfs", "xet"])
def transport(request, hub, monkeypatch):
    """The happy path in both ways in which the client moves large files."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


def test_a_patch_comes_back_bit_for_bit(hub, transport, base, ids):
    model = new_patch(base)
    commit = model.push_to_hub(REPO)
    loaded = PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO)
    assert same(model, loaded, ids)
    assert loaded.patch_config["default"] == model.patch_config["default"]
    assert commit.oid == HfApi().repo_info(REPO).sha
    assert any("xet" in line for line in requests(hub)) == (transport == "xet"), (
        "the transport is the one that was meant"
    )


def test_one_push_is_one_commit_with_a_card_and_a_tag(hub, base):
    commit = new_patch(base, "1.2.0").push_to_hub(REPO, commit_message="First", commit_description="Long words.")
    history = HfApi().list_repo_commits(REPO)
    assert [entry.title for entry in history] == ["First", "initial commit"]
    assert set(HfApi().list_repo_files(REPO)) == {
        ".gitattributes", "README.md", "policy_patch.safetensors", "policy_patch_config.json",
    }  # fmt: skip
    assert published_versions(REPO) == {"1.2.0": commit.oid}


def test_a_private_patch_needs_the_token(hub, base, ids):
    model = new_patch(base)
    model.push_to_hub(REPO, private=True, token="hf_alice")
    assert hub.repos["models", REPO].private
    assert same(model, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, token="hf_alice"), ids)
    assert same(model, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, force_download=True), ids), (
        "HF_TOKEN"
    )


def test_no_token_is_sent_with_token_false(hub, base):
    new_patch(base).push_to_hub(REPO)
    hub.log.clear()
    PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, token=False)
    assert hub.log and not any("authorization" in entry["headers"] for entry in hub.log)


def test_versions_are_tags_and_an_older_one_comes_back(hub, base, ids):
    old, new = new_patch(base, "1.9.0", seed=1), new_patch(base, "1.10.0", seed=2)
    first, second = old.push_to_hub(REPO), new.push_to_hub(REPO)
    assert list(published_versions(REPO)) == ["1.10.0", "1.9.0"], "by their numbers, not by their letters"
    for name in (f"{REPO}@v1.9.0", f"{REPO}@1.9.0", f"{REPO}@{first.oid}"):
        assert same(old, PolicyPatchModel.from_pretrained(tiny_model("llama"), name), ids)
    for revision in (None, "main", "v1.10.0", second.oid):
        assert same(new, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, revision=revision), ids)


def test_a_branch_of_its_own(hub, base, ids):
    new_patch(base, "2.0.0").push_to_hub(REPO)
    fix = new_patch(base, "1.0.1", seed=5)
    fix.push_to_hub(REPO, revision="support/1.x")
    assert same(fix, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, revision="support/1.x"), ids)
    assert list(published_versions(REPO)) == ["2.0.0", "1.0.1"]


def test_a_pull_request_changes_nothing_until_it_is_merged(hub, base, ids):
    old, new = new_patch(base, "1.0.0", seed=1), new_patch(base, "1.1.0", seed=2)
    old.push_to_hub(REPO)
    commit = new.push_to_hub(REPO, create_pr=True)
    assert commit.pr_url and commit.pr_revision == "refs/pr/1"
    assert same(old, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO), ids)
    assert same(new, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, revision="refs/pr/1"), ids)
    assert list(published_versions(REPO)) == ["1.0.0"]


def test_a_subfolder(hub, base, ids):
    one, other = new_patch(base, seed=1), new_patch(base, seed=2)
    one.push_to_hub(REPO, subfolder="toxicity")
    other.push_to_hub(REPO, subfolder="bias/gender")
    assert same(one, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, subfolder="toxicity"), ids)
    assert same(other, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, subfolder="bias/gender"), ids)
    card = (
        locate_patch(REPO, HubOptions(subfolder="toxicity"), optional=["README.md"]).folder / "README.md"
    ).read_text()
    assert f'from_pretrained(base, "{REPO}", subfolder="toxicity")' in card and "@v" not in card
    assert published_versions(REPO) == {}, "a version of the repository would not say of which patch"


def test_a_subfolder_of_a_local_folder(tmp_path, base, ids):
    model = new_patch(base)
    model.save_pretrained(tmp_path / "patches" / "tox")
    loaded = PolicyPatchModel.from_pretrained(tiny_model("llama"), tmp_path / "patches", subfolder="tox")
    assert same(model, loaded, ids)


def test_a_stack_of_versions(hub, base, ids):
    tox, bias = new_patch(base, "1.2.0", seed=1), new_patch(base, "0.3.0", seed=2)
    tox.push_to_hub("acme/tox-patch")
    new_patch(base, "1.3.0", seed=3).push_to_hub("acme/tox-patch")
    bias.push_to_hub("acme/bias-patch")
    model = PolicyPatchModel.from_pretrained(tiny_model("llama"), ["acme/tox-patch@v1.2.0", "acme/bias-patch"])
    assert model.active_patches == ["tox-patch", "bias-patch"]
    expected = new_patch(tiny_model("llama"), seed=1)
    expected._insert("bias", bias.patch_config["default"], bias.patches["default"].detach().clone(), is_trainable=False)
    expected.set_patch(["default", "bias"])
    assert same(model, expected, ids)


def test_a_loaded_patch_can_be_trained_further(hub, base, ids):
    new_patch(base).push_to_hub(REPO)
    model = PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, is_trainable=True)
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.patches["default"].grad.abs().sum() > 0


def test_an_unchanged_push_makes_no_commit(hub, base):
    model = new_patch(base)
    first = model.push_to_hub(REPO)
    again = model.push_to_hub(REPO)
    assert again.oid == first.oid and len(HfApi().list_repo_commits(REPO)) == 2


def test_a_moving_branch_never_gives_files_of_two_versions(hub, base, ids, monkeypatch):
    """The branch moves after the first file: the second one still is of the commit that was resolved."""
    import policy_patch.hub.fetch as module

    old, new = new_patch(base, "1.0.0", seed=1), new_patch(base, "1.1.0", seed=2)
    old.push_to_hub(REPO)
    download, moved = module.hf_hub_download, []

    def download_and_move(*args, **kwargs):
        path = download(*args, **kwargs)
        if not moved:
            moved.append(put(files_of(new)))
        return path

    monkeypatch.setattr(module, "hf_hub_download", download_and_move)
    assert same(old, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO), ids)
    assert moved and HfApi().repo_info(REPO).sha == moved[0]


def test_a_warm_load_makes_at_most_one_request(hub, base, ids):
    model = new_patch(base)
    commit = model.push_to_hub(REPO)
    PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO)
    for options, expected in (({}, 1), ({"local_files_only": True}, 0), ({"revision": commit.oid}, 0)):
        before = len(hub.log)
        loaded = PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, **options)
        assert len(requests(hub, before)) == expected, (options, requests(hub, before))
        assert same(model, loaded, ids)


def test_offline_mode_loads_what_the_cache_has(hub, base, ids, monkeypatch):
    model = new_patch(base)
    model.push_to_hub(REPO)
    PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.log)
    assert same(model, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO), ids)
    assert len(hub.log) == before


def test_the_cache_is_where_the_user_says(hub, base, tmp_path):
    new_patch(base).push_to_hub(REPO)
    PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO, cache_dir=tmp_path / "mine")
    assert list((tmp_path / "mine" / "models--acme--tox-patch" / "snapshots").glob("*/policy_patch.safetensors"))


def test_a_folder_comes_before_a_repository_of_its_name(hub, base, tmp_path, monkeypatch, ids):
    model = new_patch(base, seed=7)
    model.save_pretrained(tmp_path / "acme" / "tox-patch")
    monkeypatch.chdir(tmp_path)
    assert same(model, PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO), ids)
    assert not hub.log


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("org/p", ("org/p", None)),
        ("org/p@v1.0.0", ("org/p", "v1.0.0")),
        ("org/p@1.0.0", ("org/p", "v1.0.0")),
        ("org/p@main", ("org/p", "main")),
        ("org/p@refs/pr/3", ("org/p", "refs/pr/3")),
        ("org/p@", ("org/p@", None)),
    ],
)
def test_ids_carry_versions(given, expected):
    assert split_id(given) == expected
