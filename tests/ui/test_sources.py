"""Tests of `ui.sources`: what a visitor may type, and nothing else."""

import pytest

from policy_patch.errors import ModelLoadError, PatchNameError
from policy_patch.ui.sources import wanted_base, wanted_patch

HOSTILE = [
    "", "  ", "/etc", "/etc/passwd", "~/patch", "./patch", "../patch", "a/../b", "..", ".", "a/b/c", "a//b", "/a/b",
    "a/b/", "lab:", "lab:nothing", "lab:/etc", "lab:../models/base", "lab:toxicity/..", "lab:toxicity@main", "lab:base",
    "LAB:toxicity", "org/patch@", "org/patch@..", "org/patch@a/b", "org/patch@refs/pr/1", "org/patch@a..b",
    "org/patch@-x", "org/patch@v1@v2", "org/pat\nch", "org/patch\x00", "\u00f3rg/patch", "org/p\uff41tch",
    "https://huggingface.co/org/patch", "hf://org/patch", "file:///etc/passwd", "C:\\patches\\x", "org\\patch",
    "org/patch?x=1", "org/patch#x", "org/pa%2e%2e", "-org/patch", "org/.patch", "org/patch.git", "org/pa--tch",
    "o" * 97 + "/patch", "org/" + "p" * 5000, "datasets/org/patch", "openai:model@http://localhost/v1", None, 3,
    ["org/patch"], {"path": "/etc/passwd"},
]  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE)
def test_what_is_no_strict_id_is_refused_before_anything_looks_for_it(source):
    with pytest.raises(PatchNameError):
        wanted_patch(source)
    with pytest.raises(ModelLoadError):
        wanted_base(source if source != "lab:base" else "lab:bases")


def test_the_labs_names_and_ids_of_the_hub_are_taken():
    assert wanted_patch("lab:gender_bias").risk == "gender_bias"
    for source, revision in [("org/patch", None), ("a-b.c_d/e.f-g@1.2.0", "v1.2.0"), (" o/p@main ", "main")]:
        wanted = wanted_patch(source)
        assert (wanted.label, wanted.repo_id, wanted.revision) == (
            source.strip(), source.strip().partition("@")[0], revision,
        )  # fmt: skip
    assert wanted_base("lab:teacher") == ("lab:teacher", None) and wanted_base("org/model@v1") == ("org/model", "v1")


def test_a_long_text_is_not_repeated_whole():
    with pytest.raises(PatchNameError) as raised:
        wanted_patch("x" * 100_000)
    assert len(str(raised.value)) < 400
