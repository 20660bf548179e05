"""Tests of `privacy.local_names`: places on this machine are known by their look, and shown by their last part."""

import pytest

from policy_patch.privacy.local_names import is_local, without_folders

PLACES = {
    "/home/anna/models/guard": "guard", "./guard": "guard", "../guard/": "guard", "~/guard": "guard",
    "~anna/guard": "guard", r"C:\Users\Anna\guard": "guard", "D:/models/guard": "guard",
    r"\\server\share\guard": "guard",
    r"models\guard": "guard", "out/run-3/guard": "guard", "file:///home/anna/guard": "guard", ".": "a folder",
    "/": "a folder", "/home/anna/my models/guard": "guard",
}  # fmt: skip
MORE = (
    "",
    " (answer alone)",
    " (prompt and answer)",
    " at http://host/v1",
    " behind 1a2b (after_bos)",
    ", own template",
)
NAMES = (
    "org/guard", "gpt2", "lab:base", "openai:m@https://host/a/b/v1", "chat:m@http://host",
    "alt-profanity-check (lexical)", "gender words (all)", "own refusal phrases", "org/guard.v2-b",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("more", MORE)
def test_a_place_is_shown_by_its_last_part(place, more):
    assert is_local(place) and without_folders(place + more) == PLACES[place] + more


@pytest.mark.parametrize("name", NAMES)
def test_other_names_stay(name):
    assert not is_local(name) and without_folders(name) == name
    assert without_folders(f"{name} at https://host/v1") == f"{name} at https://host/v1"


def test_names_of_scorers_that_work_together_are_shown_each_for_itself():
    assert without_folders("lexical + /home/anna/clf") == without_folders("lexical + ./clf") == "lexical + clf"
    assert without_folders("/home/anna/clf + org/clf (answer alone)") == "clf + org/clf (answer alone)"


def test_a_folder_that_is_there_is_a_place_whatever_it_looks_like(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not is_local("org/model")
    monkeypatch.chdir(tmp_path)
    assert is_local("org/model") and is_local("org") and not is_local("org/model", look=False)
    assert without_folders("org/model (answer alone)") == "model (answer alone)"
