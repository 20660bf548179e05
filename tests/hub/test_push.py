"""Tests of publishing: nobody's work is overwritten unknowingly, and no commit is made twice."""

import threading

import pytest
from huggingface_hub import HfApi, constants

from policy_patch import PolicyPatchModel
from policy_patch.errors import EvaluationError, HubAccessError, HubUnavailableError, PublishConflictError
from policy_patch.hub.fetch import published_versions
from tests.hub.conftest import REPO, files_of, new_patch, put, requests
from tests.tiny_models import tiny_model

COMMIT = r"POST /api/models/acme/tox-patch/commit/"


def head() -> str:
    return HfApi().repo_info(REPO).sha


def file_at(name: str, revision: str | None = None) -> bytes:
    from pathlib import Path

    return Path(HfApi().hf_hub_download(REPO, name, revision=revision)).read_bytes()


def vectors_at_head() -> bytes:
    return file_at("policy_patch.safetensors", head())


@pytest.fixture
def first(hub, base):
    """Version 1.0.0, published."""
    model = new_patch(base, "1.0.0", seed=1)
    model.push_to_hub(REPO)
    return model


# What stands


def test_a_newer_version_is_not_overwritten(first, base):
    new_patch(base, "1.2.0", seed=2).push_to_hub(REPO)
    before = head()
    with pytest.raises(PublishConflictError, match=r"version 1\.2\.0, newer than this 1\.1\.0.*parent_commit"):
        new_patch(base, "1.1.0", seed=3).push_to_hub(REPO)
    assert head() == before


def test_with_the_newest_commit_given_it_is(first, base):
    new_patch(base, "1.2.0", seed=2).push_to_hub(REPO)
    older = new_patch(base, "1.1.0", seed=3)
    older.push_to_hub(REPO, parent_commit=head())
    assert vectors_at_head() == files_of(older)["policy_patch.safetensors"]
    assert list(published_versions(REPO)) == ["1.2.0", "1.1.0", "1.0.0"]


@pytest.mark.parametrize("knowingly", [False, True])
def test_a_published_version_never_changes(first, base, knowingly):
    before = head()
    options = {"parent_commit": before} if knowingly else {}
    with pytest.raises(PublishConflictError, match=r"1\.0\.0 is published .*never changes.*Raise `patch_version`"):
        new_patch(base, "1.0.0", seed=2).push_to_hub(REPO, **options)
    assert head() == before


def test_nor_one_that_was_published_before_the_newest(first, base):
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    with pytest.raises(PublishConflictError, match=r"1\.0\.0 is published"):
        new_patch(base, "1.0.0", seed=3).push_to_hub(REPO, parent_commit=head())


def test_a_stale_parent_is_refused(first, base):
    stale = head()
    put({"notes.txt": b"by somebody else"})
    before = head()
    with pytest.raises(PublishConflictError, match=rf"{stale[:12]} is not its newest commit any more") as caught:
        new_patch(base, "1.1.0", seed=2).push_to_hub(REPO, parent_commit=stale)
    assert caught.value.__cause__.response.status_code == 412
    assert head() == before


def test_an_unreadable_configuration_is_replaced_knowingly_only(hub, base):
    put({"policy_patch_config.json": b'{"format_version": 99}'})
    with pytest.raises(PublishConflictError, match=r"cannot read.*parent_commit"):
        new_patch(base).push_to_hub(REPO)
    new_patch(base).push_to_hub(REPO, parent_commit=head())
    assert PolicyPatchModel.from_pretrained(tiny_model("llama"), REPO).active_patches == ["default"]


# Races


def between_look_and_commit(monkeypatch, action) -> None:
    """Do something once, after the push has looked at the repository and before it commits."""
    import policy_patch.hub.push as module

    commit, done = module._commit, []

    def first_act(*args, **kwargs):
        if not done:
            done.append(True)
            action()
        return commit(*args, **kwargs)

    monkeypatch.setattr(module, "_commit", first_act)


def test_a_commit_to_other_files_meanwhile_is_no_conflict(first, base, monkeypatch):
    between_look_and_commit(monkeypatch, lambda: put({"notes.txt": b"by somebody else"}))
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert file_at("notes.txt", head()) == b"by somebody else"
    assert list(published_versions(REPO)) == ["1.1.0", "1.0.0"]


def test_an_edit_of_the_card_meanwhile_is_kept(first, base, monkeypatch):
    edited = file_at("README.md", head()) + b"\nWritten by people, in the last second.\n"
    between_look_and_commit(monkeypatch, lambda: put({"README.md": edited}))
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    card = file_at("README.md", head())
    assert b"Written by people, in the last second." in card and b"1.1.0" in card


@pytest.mark.parametrize("theirs", ["1.0.5", "1.1.0", "1.2.0"])
def test_another_version_meanwhile_is_a_conflict(first, base, monkeypatch, theirs):
    other = new_patch(base, theirs, seed=9)
    between_look_and_commit(monkeypatch, lambda: put(files_of(other)))
    with pytest.raises(PublishConflictError):
        new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert vectors_at_head() == files_of(other)["policy_patch.safetensors"], "the faster one's stands"


def test_two_pushers_race_and_no_commit_is_lost(hub, base):
    models = [new_patch(tiny_model("llama"), f"1.{number}.0", seed=number) for number in range(4)]
    new_patch(base, "0.1.0", seed=99).push_to_hub(REPO)
    results: dict[int, object] = {}

    def push(number: int) -> None:
        try:
            results[number] = models[number].push_to_hub(REPO)
        except PublishConflictError as error:
            results[number] = error

    threads = [threading.Thread(target=push, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    landed = [number for number, result in results.items() if not isinstance(result, Exception)]
    history = [entry.title for entry in HfApi().list_repo_commits(REPO)]
    assert landed and len(results) == 4
    assert len(history) == len(landed) + 2, "each push that says so landed, once, and no other did"
    assert {f"Publish version 1.{number}.0" for number in landed} <= set(history)
    tags = published_versions(REPO)
    for number in landed:
        there = file_at("policy_patch.safetensors", tags[f"1.{number}.0"])
        assert there == files_of(models[number])["policy_patch.safetensors"]


# Lost answers


def test_a_lost_answer_makes_no_second_commit(first, base, hub, caplog):
    hub.fault(COMMIT, "close", times=1)
    commit = new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    history = HfApi().list_repo_commits(REPO)
    assert [entry.title for entry in history] == ["Publish version 1.1.0", "Publish version 1.0.0", "initial commit"]
    assert commit.oid == history[0].commit_id and published_versions(REPO)["1.1.0"] == commit.oid
    assert "is yours" in caplog.text


def test_a_commit_that_did_not_arrive_says_so(first, base, hub, monkeypatch):
    import httpx2

    def broken(*args, **kwargs):
        raise httpx2.ReadError("connection reset")

    before = head()
    monkeypatch.setattr(HfApi, "create_commit", broken)
    with pytest.raises(HubUnavailableError, match="Nothing was written; push again") as caught:
        new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert isinstance(caught.value.__cause__, httpx2.ReadError)
    assert head() == before and list(published_versions(REPO)) == ["1.0.0"]


def test_a_lost_tag_is_set_by_the_next_push(first, base, hub):
    hub.fault("POST .*/tag/", "status", status=500, times=100)
    model = new_patch(base, "1.1.0", seed=2)
    with pytest.raises(HubUnavailableError, match="tag the version"):
        model.push_to_hub(REPO)
    hub.faults.clear()
    commit = model.push_to_hub(REPO)
    assert published_versions(REPO)["1.1.0"] == commit.oid and len(HfApi().list_repo_commits(REPO)) == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_hub(first, base, hub, status):
    hub.fault(COMMIT, "status", status=status, times=100)
    with pytest.raises(HubUnavailableError, match=str(status)) as caught:
        new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert caught.value.__cause__ is not None


# Rights


@pytest.mark.parametrize("token", ["hf_read", "hf_bob"])
def test_a_token_that_may_not_write(first, base, token):
    with pytest.raises(HubAccessError, match="write access") as caught:
        new_patch(base, "1.1.0", seed=2).push_to_hub(REPO, token=token)
    assert caught.value.__cause__.response.status_code == 403


def test_no_token_at_all(hub, base):
    with pytest.raises(HubAccessError) as caught:
        new_patch(base).push_to_hub(REPO, token=False)
    assert caught.value.__cause__ is not None


# The card


def test_what_people_wrote_on_the_card_stays(first, base):
    card = file_at("README.md", head()).decode()
    put({"README.md": card.replace("---\n", "---\nlanguage: en\n", 1).encode() + b"\n## Our own words\n"})
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    card = file_at("README.md", head()).decode()
    assert "language: en" in card and "## Our own words" in card and "1.1.0" in card


def test_a_card_that_people_rewrote_is_not_touched(first, base):
    put({"README.md": b"---\nlicense: mit\n---\nOurs.\n"})
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert file_at("README.md", head()) == b"---\nlicense: mit\n---\nOurs.\n"


@pytest.mark.parametrize("card", [b"---\n: [broken\n---\nOurs.\n", b"\xff\xfe not text"])
def test_a_card_that_cannot_be_read_is_not_touched(first, base, hub, card):
    repo = hub.repos["models", REPO]
    tree = repo.commits[repo.branches["main"]]["tree"]
    tree["README.md"] = hub.put(card)  # as git lets people do; the client would refuse to send it
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert file_at("README.md", head()) == card


def test_a_template_in_the_card_is_not_run(first, base):
    card = file_at("README.md", head()).decode() + "\n{{ 7 * 7 }} {% for x in range(9) %}x{% endfor %}\n"
    put({"README.md": card.encode()})
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert "{{ 7 * 7 }} {% for x in range(9) %}x{% endfor %}" in file_at("README.md", head()).decode()


def test_the_report_is_published_beside_and_on_the_card(hub, base, tmp_path):
    from policy_patch.evaluation import EvaluationReport
    from tests.evaluation.synthetic import synthetic_report

    report: EvaluationReport = synthetic_report()
    report.save(tmp_path)
    new_patch(base).push_to_hub(REPO, evaluation=tmp_path)
    card = file_at("README.md", head()).decode()
    assert "average maximum toxicity" in card
    (tmp_path / "pulled").mkdir()
    (tmp_path / "pulled" / "evaluation.json").write_bytes(file_at("evaluation.json", head()))
    assert EvaluationReport.load(tmp_path / "pulled").systems == report.systems


@pytest.mark.parametrize("given", ["a folder", "a file", "a report"])
def test_a_report_is_given_as_itself_its_file_or_its_folder(hub, base, tmp_path, given):
    from tests.evaluation.synthetic import synthetic_report

    report = synthetic_report()
    report.save(tmp_path)
    places = {"a folder": tmp_path, "a file": str(tmp_path / "evaluation.json"), "a report": report}
    new_patch(base).push_to_hub(REPO, evaluation=places[given])
    assert file_at("evaluation.json", head()).decode() == report.to_json()


def test_an_edited_report_is_refused_before_any_request(hub, base, tmp_path):
    from tests.evaluation.synthetic import synthetic_report

    (tmp_path / "evaluation.json").write_text(synthetic_report().to_json().replace('"risk"', '"risks"', 1))
    with pytest.raises(EvaluationError, match=r"evaluation.json has the unknown key `risks`. Did you mean `risk`"):
        new_patch(base).push_to_hub(REPO, evaluation=tmp_path)
    assert not hub.log


def test_a_report_of_other_vectors_does_not_stay(hub, base, tmp_path):
    from tests.evaluation.synthetic import synthetic_report

    synthetic_report().save(tmp_path)
    new_patch(base, "1.0.0", seed=1).push_to_hub(REPO, evaluation=tmp_path)
    new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert "evaluation.json" not in HfApi().list_repo_files(REPO)
    assert "evaluation.json" in HfApi().list_repo_files(REPO, revision="v1.0.0")
    assert b"Not evaluated" in file_at("README.md", head())


def test_nor_if_the_answer_is_lost(hub, base, tmp_path):
    from tests.evaluation.synthetic import synthetic_report

    synthetic_report().save(tmp_path)
    new_patch(base, "1.0.0", seed=1).push_to_hub(REPO, evaluation=tmp_path)
    hub.fault(COMMIT, "close", times=1)
    commit = new_patch(base, "1.1.0", seed=2).push_to_hub(REPO)
    assert commit.oid == head() and "evaluation.json" not in HfApi().list_repo_files(REPO)


def test_a_report_is_added_to_a_version_that_had_none(hub, base, tmp_path):
    from tests.evaluation.synthetic import synthetic_report

    model = new_patch(base)
    model.push_to_hub(REPO)
    synthetic_report().save(tmp_path)
    model.push_to_hub(REPO, evaluation=tmp_path)
    assert "evaluation.json" in HfApi().list_repo_files(REPO)
    model.push_to_hub(REPO)
    assert "evaluation.json" in HfApi().list_repo_files(REPO), "the same vectors: the report still holds"
    assert b"Not evaluated" not in file_at("README.md", head())


def test_in_xet_mode_a_push_is_one_commit_too(hub, base, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    new_patch(base).push_to_hub(REPO)
    assert len(HfApi().list_repo_commits(REPO)) == 2
    assert len([line for line in requests(hub) if "/commit/" in line]) == 1
