"""Tests of `cli.help`: prose is as wide as the terminal, examples are left alone, and each default is one."""

import pytest

from policy_patch.cli import COMMANDS, main


def help_of(command, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    out, err = capsys.readouterr()
    assert (exit_.value.code, err) == (0, "")
    return out


def too_wide(text, width):
    """Return the lines of prose and the options beyond a width. What is to be copied may be wider."""
    above, _, options = text.partition("options:\n")
    lines = [line for line in above.splitlines() if not line.startswith("  ")] + options.splitlines()
    return [line for line in lines if len(line) > width]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda words: " ".join(words) or "all")
def test_no_line_of_prose_is_wider_than_the_terminal(command, capsys, monkeypatch):
    narrow, wide = (help_of(command, width, capsys, monkeypatch) for width in (60, 160))
    assert too_wide(narrow, 60) == [] and too_wide(help_of(command, 80, capsys, monkeypatch), 80) == []
    assert len(wide.splitlines()) < len(narrow.splitlines())
    assert too_wide(wide, 80)  # so the width is used, and the first assertion could fail
    assert " ".join(narrow.split()) == " ".join(wide.split())


def test_defaults_are_shown_where_there_is_one(capsys, monkeypatch):
    text = " ".join(help_of(["generate"], 160, capsys, monkeypatch).split())
    assert "--seed SEED Seed of the samples. (default: 0)" in text
    assert "--json Print JSON. --policy" in text and "null" not in text and "(default: )" not in text
    assert "--output OUTPUT Folder to write; a patch in it is replaced. (required)" in " ".join(
        help_of(["compose"], 160, capsys, monkeypatch).split()
    )
