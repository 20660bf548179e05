"""Tests of what a push refuses before anything changes, and of what it publishes for what only this machine has.

Versions go up, a base is one that others can load, links point to where the patch is.
"""

import re
import shlex
from dataclasses import replace

import pytest
from huggingface_hub import HfApi

from policy_patch import AutoPolicyPatchModel, PolicyPatchModel
from policy_patch.cli import main
from policy_patch.errors import ConfigError, PatchSaveError, PublishConflictError
from policy_patch.hub.fetch import HubOptions, published_versions
from policy_patch.hub.publishing import push_patch
from policy_patch.hub.push import PushOptions
from policy_patch.patch.folder import patch_files, read_patch_folder
from tests.evaluation.synthetic import synthetic_report
from tests.hub.conftest import REPO, new_patch, put, requests

CONFIG, TENSORS, CARD = "policy_patch_config.json", "policy_patch.safetensors", "README.md"


def state(hub):
    """Return what is on the server."""
    return {name: (dict(r.branches), dict(r.tags), len(r.commits)) for (_, name), r in hub.repos.items()}


def published(hub, revision: str = "main", repo_id: str = REPO) -> dict[str, str]:
    """Return the files of a branch or tag, as text."""
    repo = hub.repos["models", repo_id]
    tree = repo.commits[repo.resolve(revision)]["tree"]
    return {name: hub.blob(file.sha).decode("latin-1") for name, file in tree.items()}


# Versions


@pytest.mark.parametrize(
    ("there", "pushed", "goes_up"),
    [
        ("1.1.0", "1.0.0", False),
        ("1.10.0", "1.9.0", False),
        ("1.0.0", "1.0.0-rc.1", False),
        ("1.0.0-rc.10", "1.0.0-rc.9", False),
        ("1.0.0+a", "1.0.0+b", False),
        ("1.0.0", "1.0.0+b", False),
        ("1.0.0-rc.9", "1.0.0-rc.10", True),
        ("1.0.0-rc.1", "1.0.0", True),
        ("1.9.0", "1.10.0", True),
        ("1.0.0+b", "1.0.1+a", True),
    ],
)
@pytest.mark.parametrize("same_vectors", [True, False])
def test_versions_only_go_up(hub, base, there, pushed, goes_up, same_vectors):
    new_patch(base, there, seed=1).push_to_hub(REPO)
    before, model = state(hub), new_patch(base, pushed, seed=1 if same_vectors else 2)
    config = model.patch_config["default"]
    if goes_up:
        model.push_to_hub(REPO)
        assert list(published_versions(REPO)) == [pushed, there]
        return
    with pytest.raises(PublishConflictError, match=re.escape(f"holds version {there}, ")) as caught:
        model.push_to_hub(REPO)
    assert "`--version` of `policy-patch push`" in str(caught.value)
    assert state(hub) == before and model.patch_config["default"] == config


def test_versions_only_go_up_in_a_folder_and_a_branch_of_their_own(hub, base):
    new_patch(base, "3.0.0", seed=1).push_to_hub(REPO)
    for place in ({"subfolder": "bias"}, {"revision": "support/1.x"}):
        new_patch(base, "1.1.0", seed=2).push_to_hub(REPO, **place)
        before = state(hub)
        with pytest.raises(PublishConflictError, match=r"holds version 1\.1\.0, newer than this 1\.0\.0"):
            new_patch(base, "1.0.0", seed=2).push_to_hub(REPO, **place)
        assert state(hub) == before


def test_an_older_version_that_is_there_already_does_not_come_back(hub, base):
    old = new_patch(base, "1.0.0", seed=1)
    old.push_to_hub(REPO)
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    before = state(hub)
    with pytest.raises(PublishConflictError, match=r"holds version 1\.1\.0, newer"):
        old.push_to_hub(REPO)
    assert state(hub) == before


def test_nor_after_the_files_of_the_newest_were_deleted(hub, base):
    new_patch(base, "1.1.0", seed=1).push_to_hub(REPO)
    HfApi().delete_file(CONFIG, REPO)
    with pytest.raises(PublishConflictError, match=r"holds version 1\.1\.0, newer"):
        new_patch(base, "1.0.0", seed=1).push_to_hub(REPO)
    new_patch(base, "1.2.0", seed=1).push_to_hub(REPO)


@pytest.mark.parametrize("change", [{"risk": "other"}, {"filtered_by": ["x"]}, {"base_model_name_or_path": "a/b"}])
def test_other_settings_need_another_version_too(hub, base, change):
    model = new_patch(base)
    model.push_to_hub(REPO)
    before = state(hub)
    model.patch_config["default"] = replace(model.patch_config["default"], **change)
    with pytest.raises(PublishConflictError, match=r"1\.0\.0 is published .* with other vectors or settings"):
        model.push_to_hub(REPO)
    assert state(hub) == before


def test_the_same_patch_from_another_version_of_the_package_changes_nothing(hub, base, monkeypatch):
    model = new_patch(base)
    first = model.push_to_hub(REPO)
    before = published(hub)
    monkeypatch.setattr("policy_patch.patch.folder.__version__", "9.9.9")
    again = model.push_to_hub(REPO)
    after = published(hub)
    assert (after[CONFIG], after[TENSORS]) == (before[CONFIG], before[TENSORS])
    assert published_versions(REPO) == {"1.0.0": first.oid} and again.oid


def test_a_report_stays_with_the_same_vectors_under_a_newer_version(hub, base, tmp_path):
    synthetic_report().save(tmp_path)
    new_patch(base, "1.0.0", seed=1).push_to_hub(REPO, evaluation=tmp_path)
    new_patch(base, "1.1.0", seed=1).push_to_hub(REPO)
    assert "evaluation.json" in published(hub)
    new_patch(base, "1.2.0", seed=1, placement="before_bos").push_to_hub(REPO)
    assert "evaluation.json" not in published(hub), "elsewhere in the text it does something else"


def test_a_pull_request_with_an_older_version_is_refused(hub, base):
    new_patch(base, "1.1.0", seed=1).push_to_hub(REPO)
    with pytest.raises(PublishConflictError, match="newer than this"):
        new_patch(base, "1.0.0", seed=1).push_to_hub(REPO, create_pr=True)
    assert not hub.repos["models", REPO].pulls


def test_a_push_into_a_pull_request_sets_no_tag(hub, base):
    new_patch(base, "1.0.0", seed=1).push_to_hub(REPO)
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO, create_pr=True)
    new_patch(base, "1.1.1", seed=3).push_to_hub(REPO, revision="refs/pr/1")
    assert list(published_versions(REPO)) == ["1.0.0"]
    assert '"patch_version": "1.1.1"' in published(hub, "refs/pr/1")[CONFIG]


def test_a_refused_push_makes_no_branch(hub, base):
    new_patch(base, "1.0.0", seed=1).push_to_hub(REPO)
    before = state(hub)
    with pytest.raises(PublishConflictError, match=r"1\.0\.0 is published"):
        new_patch(base, "1.0.0", seed=2).push_to_hub(REPO, revision="support/1.x")
    assert state(hub) == before


def test_a_folder_gets_the_version_only_once_it_is_published(hub, base, tmp_path, monkeypatch, capsys):
    new_patch(base, "1.0.0", seed=1).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.startswith(".")}

    def unchanged() -> bool:
        return before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.startswith(".")}

    hub.fault("POST .*/commit/", "status", status=503, times=100)
    assert main(["push", str(tmp_path), REPO, "--version", "1.1.0"]) == 2
    assert "503" in capsys.readouterr().err and unchanged()
    hub.faults.clear()

    def full(*args, **kwargs):
        raise PatchSaveError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("policy_patch.patch.folder.write_patch_files", full)
        assert main(["push", str(tmp_path), REPO, "--version", "1.1.0"]) == 2
    err = capsys.readouterr().err
    assert "The patch is published (commit" in err and "makes no second commit" in err and unchanged()

    commits = len(HfApi().list_repo_commits(REPO))
    assert main(["push", str(tmp_path), REPO, "--version", "1.1.0"]) == 0
    assert len(HfApi().list_repo_commits(REPO)) == commits and list(published_versions(REPO)) == ["1.1.0"]
    assert read_patch_folder(tmp_path)[0].patch_version == "1.1.0"


# Bases


PLACES = (
    "/home/anna/base", "./base", "../base", "~/base", r"C:\models\base", "models/run-3/base", "file:///home/anna/base",
    "lab:/home/anna/base", "lab:mine", "https://huggingface.co/org/model", ".", "-odd-", "org/model/",
)  # fmt: skip


def named(base, name: str | None, **config) -> PolicyPatchModel:
    """Return a patch that names this base."""
    model = new_patch(base, **config)
    model.patch_config["default"] = replace(model.patch_config["default"], base_model_name_or_path=name)
    return model


@pytest.mark.parametrize("place", PLACES)
def test_a_base_that_only_this_machine_has_is_not_published(hub, base, place):
    model = named(base, place)
    config = model.patch_config["default"]
    with pytest.raises(ConfigError, match=r"`--base org/model` of .*base_model=.*Nothing was published"):
        model.push_to_hub(REPO)
    with pytest.raises(ConfigError, match="`--base org/model` of `policy-patch push`"):
        push_patch(REPO, *patch_files(config, model.patches["default"]))
    assert not hub.log and model.patch_config["default"] == config

    model.push_to_hub(REPO, base_model="org/model")
    assert place in (".", PLACES[9]) or not [name for name, text in published(hub).items() if place in text]
    assert '"base_model_name_or_path": "org/model"' in published(hub)[CONFIG]
    assert "base_model: org/model" in published(hub)[CARD] and "huggingface.co/org/model" in published(hub)[CARD]
    assert model.patch_config["default"].base_model_name_or_path == "org/model"


def test_a_name_that_is_a_folder_here_is_asked_about(hub, base, tmp_path, monkeypatch):
    (tmp_path / "acme" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--base"):
        new_patch(base).push_to_hub(REPO)
    assert not hub.log
    new_patch(base).push_to_hub(REPO, base_model="acme/base")
    assert (
        "base_model: acme/base" in published(hub)[CARD] and "(https://huggingface.co/acme/base)" in published(hub)[CARD]
    )


@pytest.mark.parametrize("name", ["acme/base", "gpt2", "lab:base", "lab:teacher", None])
def test_a_base_that_others_have_is_published(hub, base, name):
    named(base, name).push_to_hub(REPO)
    assert published_versions(REPO)


def test_the_lab_s_base_is_named_by_its_name_wherever_it_lies(hub):
    from policy_patch import PolicyPatchConfig, get_policy_patch_model
    from policy_patch.lab import load_lab_base

    model = get_policy_patch_model(load_lab_base(), PolicyPatchConfig(num_virtual_tokens=2, init="vocab"))
    model.push_to_hub(REPO)
    assert model.patch_config["default"].base_model_name_or_path == "lab:base"
    assert "load_lab_base()" in published(hub)[CARD] and "lab/models" not in str(published(hub))
    loaded = AutoPolicyPatchModel.from_pretrained(REPO)
    assert loaded.patches["default"].equal(model.patches["default"])


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc123", "A" * 40, "../.."])
def test_a_revision_of_the_base_that_may_move_is_not_published(hub, base, revision):
    model = new_patch(base, base_model_revision=revision)
    with pytest.raises(ConfigError, match=r"which is not a commit.*--base org/model@<commit>"):
        model.push_to_hub(REPO)
    assert not hub.log
    model.push_to_hub(REPO, base_model=f"acme/base@{'a' * 40}")
    assert f'"base_model_revision": "{"a" * 40}"' in published(hub)[CONFIG]


def test_the_revision_of_a_base_goes_with_its_name(hub, base):
    model = new_patch(base, base_model_revision="a" * 40)
    model.push_to_hub(REPO, base_model="acme/base")
    assert model.patch_config["default"].base_model_revision == "a" * 40, "the same base"
    other = new_patch(base, "1.1.0", base_model_revision="a" * 40)
    other.push_to_hub(REPO, base_model="acme/other")
    assert other.patch_config["default"].base_model_revision is None, "a commit of another repository"


@pytest.mark.parametrize("name", ["", "./base", "org/model/x", "org/model@main", "a b", "org/..", "lab:base"])
def test_what_is_no_name_on_the_hub_is_no_base(hub, base, name):
    with pytest.raises(ConfigError, match=r"base_model|--base"):
        new_patch(base).push_to_hub(REPO, base_model=name)
    assert not hub.log


def test_the_command_names_the_base_too_and_writes_it_into_the_folder(hub, base, tmp_path, capsys):
    named(base, "/home/anna/base").save_pretrained(tmp_path)
    for words in ([], ["--dry_run"]):
        assert main(["push", str(tmp_path), REPO, *words]) == 2
        assert "--base org/model" in capsys.readouterr().err and not hub.log
    assert main(["push", str(tmp_path), REPO, "--base", "org/model"]) == 0
    assert read_patch_folder(tmp_path)[0].base_model_name_or_path == "org/model"
    assert "/home/anna" not in str(published(hub))


def test_no_folder_of_this_machine_is_in_what_is_published(hub, base, tmp_path):
    text = synthetic_report().to_json()
    for name in ("scorers", "judge"):
        assert f'"{name}"' in text
    report = synthetic_report()
    scorer, place = report.scorers[0].name, "/home/anna/models/classifier"
    text = text.replace(f'"{scorer}"', f'"{place}"').replace(
        f'"{report.perplexity_model}"', r'"C:\\Users\\anna\\judge"'
    )
    (tmp_path / "evaluation.json").write_text(text)
    model = new_patch(base, filtered_by=[place, "lexical"])
    model.push_to_hub(REPO, evaluation=tmp_path, tags=["kind"])
    for name, content in published(hub).items():
        assert "anna" not in content, name
    assert '"filtered_by": [\n    "classifier",\n    "lexical"\n  ]' in published(hub)[CONFIG]
    assert "Scored by classifier" in published(hub)[CARD]


# Links


def card_at(hub, revision: str, prefix: str) -> str:
    return published(hub, revision)[prefix + CARD]


@pytest.mark.parametrize(("subfolder", "revision"), [("bias/gender", None), (None, "support/1.x"), ("tox", "next")])
def test_links_point_to_where_the_patch_is(hub, base, tmp_path, capsys, monkeypatch, subfolder, revision):
    report = synthetic_report()
    new_patch(base, "2.0.0", seed=9).push_to_hub(REPO)
    folder = tmp_path / "folder"
    new_patch(base, "1.0.1", seed=1).save_pretrained(folder)
    report.save(folder)
    words = ["--subfolder", subfolder] if subfolder else []
    words += ["--revision", revision] if revision else []
    assert main(["push", str(folder), REPO, *words, "--dataset_id", "acme/prompts"]) == 0
    said = capsys.readouterr().err

    branch, prefix = revision or "main", f"{subfolder}/" if subfolder else ""
    card = card_at(hub, branch, prefix)
    within = (f', subfolder="{subfolder}"' if subfolder else "") + (f', revision="{revision}"' if revision else "")
    assert f'PolicyPatchModel.from_pretrained(base, "{REPO}"{within})' in card
    assert f'AutoPolicyPatchModel.from_pretrained("{REPO}"{within})' in card
    assert (f"{REPO}@v1.0.1" in card) == (not subfolder), "a folder has no tag"
    if not subfolder:
        assert f"policy-patch generate {REPO}@{revision} " in card
    result = published(hub, branch)[f"{prefix}.eval_results/acme--prompts.yaml"]
    assert f"/blob/{branch.replace('/', '%2F')}/{prefix}evaluation.json" in result

    command = shlex.split(said.partition("Next: ")[2])
    monkeypatch.chdir(tmp_path)
    assert command[0] == "policy-patch" and main(command[1:]) == 0
    assert read_patch_folder(tmp_path / "tox-patch")[0].patch_version == "1.0.1"


def test_the_command_behind_a_pull_request_gets_it(hub, base, tmp_path, capsys, monkeypatch):
    new_patch(base, "1.0.0", seed=9).push_to_hub(REPO)
    new_patch(base, "1.1.0", seed=1).save_pretrained(tmp_path / "folder")
    assert main(["push", str(tmp_path / "folder"), REPO, "--create_pr"]) == 0
    command = shlex.split(capsys.readouterr().err.partition("Next: ")[2])
    monkeypatch.chdir(tmp_path)
    assert command[-2:] == ["--revision", "refs/pr/1"] and main(command[1:]) == 0
    assert read_patch_folder(tmp_path / "tox-patch")[0].patch_version == "1.1.0"


def test_the_card_on_the_main_branch_names_no_revision(hub, base):
    new_patch(base).push_to_hub(REPO, revision="main")
    assert f'from_pretrained(base, "{REPO}")\n' in published(hub)[CARD] and list(published_versions(REPO)) == ["1.0.0"]


# Other


def test_options_do_not_show_their_token():
    for options in (HubOptions(token="hf_secret"), PushOptions(token="hf_secret")):
        assert "hf_secret" not in repr(options) and options.token == "hf_secret"


def test_a_private_repository_stays_private_and_takes_a_private_push(hub, base, caplog):
    new_patch(base, "1.0.0", seed=1).push_to_hub(REPO, private=True)
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO, private=True)
    new_patch(base, "1.2.0", seed=3).push_to_hub(REPO, private=False)
    assert hub.repos["models", REPO].private and "stays private" in caplog.text


def test_a_flipped_byte_in_a_card_that_is_merged_is_seen(hub, base):
    new_patch(base, "1.0.0", seed=1).push_to_hub(REPO)
    put({CARD: published(hub)[CARD].encode() + b"\n## Our own words\n"})
    hub.fault(rf"GET /{REPO}/resolve/.*README.md", "corrupt", times=1, at=20)
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    card = published(hub)[CARD]
    assert "## Our own words" in card and "1.1.0" in card and card.isprintable() is False
    assert not re.search(r"[^\x00-\x7f]", card), "nothing damaged was committed"


def test_a_push_of_what_is_there_asks_for_nothing_twice(hub, base):
    model = new_patch(base)
    model.push_to_hub(REPO)
    before = len(hub.log)
    model.push_to_hub(REPO)
    assert not [line for line in requests(hub, before) if "/commit/" in line or "preupload" in line or "/tag/" in line]


def test_files_that_are_no_patch_s_are_not_fetched_by_a_push(hub, base):
    model = new_patch(base, "1.0.0", seed=1)
    model.push_to_hub(REPO)
    other = new_patch(base, "1.0.0", seed=1)
    there = patch_files(replace(other.patch_config["default"], patch_version="1.0.0"), other.patches["default"] * 2)[1]
    put({**there, TENSORS: there[TENSORS] + bytes(2**21), CARD: b"---\nlicense: mit\n---\n" + b"x" * 2**23})
    before = len(hub.log)
    with pytest.raises(PublishConflictError, match="with other vectors"):
        model.push_to_hub(REPO)
    new_patch(base, "1.1.0", seed=3).push_to_hub(REPO)
    assert not [line for line in requests(hub, before) if line.startswith("GET /_cdn")]
    assert len(published(hub)[CARD]) > 2**23, "a card that is none of ours stays"


@pytest.mark.parametrize("token", ["hf_ü", "hf_Abcü123"])
def test_a_base_that_is_loaded_with_such_a_token_shows_none_of_it(hub, monkeypatch, token):
    from policy_patch.errors import ModelLoadError
    from policy_patch.recipes.models import load_model

    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelLoadError, match="Cannot load") as caught:
        load_model("acme/base")
    one, said = caught.value, ""
    while one is not None:
        said += f"{one!r} {one} {one.args} {getattr(one, 'object', '')} "
        one = one.__cause__ or one.__context__
    assert token not in said
