"""Tests of `ui.paths`: no folder of the server is left in what visitors read."""

import tempfile
from pathlib import Path

import pytest

from policy_patch.errors import HubError, PatchFileError
from policy_patch.ui.asking import told
from policy_patch.ui.paths import A_FILE, names_a_folder, without_paths
from policy_patch.ui.served import Served


@pytest.mark.parametrize(
    "path",
    [
        "/home/jo/patches/x", "/srv/x.safetensors", "~/x", "~jo/x", "C:\\Users\\jo\\x", "\\\\server\\share", "/x",
        f"{Path.home()}/secret dir", str(Path.cwd() / "a"), f"{tempfile.gettempdir()}/policy-patch-page-x/y",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "sentence", ["`{}` is cut", "Cannot read {}: no", "[Errno 13] denied: '{}'", "in ({}), so", "{}"]
)
def test_paths_are_taken_out_of_errors(path, sentence):
    said = without_paths(sentence.format(path))
    assert A_FILE in said and path not in said and "/home" not in said and "jo" not in said.split()
    assert not names_a_folder(said)


@pytest.mark.parametrize(
    "text",
    [
        "`org/tox-patch` at v1.0.0 is at https://huggingface.co/org/tox-patch/tree/main",
        "and/or, 3/4, <b>bold</b>, `org/tmp-patch`, `org/root`, policy_patch/ui",
    ],
)
def test_ids_addresses_and_words_stay(text):
    assert without_paths(text) == text and not names_a_folder(text)


def test_the_names_of_a_patchs_files_stay():
    assert without_paths("/tmp/a/policy_patch.safetensors is cut") == "policy_patch.safetensors is cut"


def test_a_folder_with_spaces_goes_whole_where_it_is_quoted_or_given_at_the_start():
    assert without_paths("`/srv/my models/x` and '/a b/c d' are cut") == f"`{A_FILE}` and '{A_FILE}' are cut"
    assert without_paths("in /srv/my odd folder/y") != f"in {A_FILE}"
    Served("./my models/base", ["/srv/my odd folder"])
    assert without_paths("`./my models/base/config.json` is cut") == f"`{A_FILE}` is cut"
    assert without_paths("in /srv/my odd folder/y") == f"in {A_FILE}"


def test_errors_told_to_visitors_name_no_folder():
    error = HubError(f"the disk of the cache `{Path.home()}/.cache/huggingface/hub` is full (No space: '/mnt/x y/z').")
    assert "cache/hugging" not in told(error) and str(Path.home()) not in told(error) and "/mnt" not in told(error)
    assert told(PatchFileError("/srv/p/policy_patch.safetensors is damaged")) == (
        "**That did not work.** policy_patch.safetensors is damaged"
    )
