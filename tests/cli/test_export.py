"""Tests of `policy-patch export`: the list of formats, options of a format, and what is missing."""

import json

import pytest

from policy_patch.cli import main
from policy_patch.export import Exported, register_export_format
from policy_patch.export.formats import FORMATS


def write_names(patches, output_dir, *, base=None, hub=None, times: int = 1):
    """The names of the patches."""
    facts = {"names": list(patches) * times, "base of it": base, "number": 3}
    return Exported(output_dir, ("names.txt",), facts, "Use it so.")


@pytest.fixture(autouse=True)
def names():
    register_export_format("names", write_names)
    yield
    FORMATS._registered.pop("names")


def test_the_formats_are_listed_with_their_options(capsys):
    assert main(["export", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"format": "names", "what it is": "The names of the patches.", "options (--set)": "times=1"} in rows
    assert main(["export", "--list"]) == 0
    assert "The names of the patches." in capsys.readouterr().out


def test_a_format_is_written_and_its_facts_are_told(capsys):
    words = ["export", "a=x", "b=y", "--format", "names", "--output_dir", "out", "--base", "lab:base"]
    assert main([*words, "--set", "times=2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["names"] == ["a=x", "b=y"] * 2 and told["base of it"] == "lab:base" and told["folder"] == "out"
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == "out\n" and "number: 3" in err and "Use it so." in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "names", "--output_dir", "o"], "needs a patch"),
        (["x", "--output_dir", "o"], "needs --format"),
        (["x", "--format", "names"], "needs --output_dir"),
        (["x", "--format", "nams", "--output_dir", "o"], "Did you mean 'names'"),
        (["x", "--format", "names", "--output_dir", "o", "--set", "times"], "expected NAME=VALUE"),
        (["x", "--format", "names", "--output_dir", "o", "--set", "time=1"], "Did you mean `times`"),
    ],
)
def test_what_is_missing_is_bad_usage(words, message, capsys):
    assert main(["export", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err


@pytest.mark.parametrize("form", ["gguf", "probe"])
def test_another_base_is_the_reason_that_is_told(patch_folder, form, tmp_path, capsys):
    words = [str(patch_folder), "--format", form, "--output_dir", str(tmp_path / "out"), "--base", "lab:teacher"]
    assert main(["export", *words]) == 1
    assert "was made for another state of this base" in capsys.readouterr().err
