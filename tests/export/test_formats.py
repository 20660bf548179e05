"""Tests of the table of export formats: names, options out of texts, and formats of others."""

import pytest

from policy_patch.errors import ExportError
from policy_patch.export.formats import ENTRY_POINTS, FORMATS, Exported, ExportFormat, export_as, register_export_format
from tests.installed import install

MODULE = """
from pathlib import Path
from policy_patch.export import Exported
def write(patches, output_dir, *, base=None, hub=None):
    "For an engine of my own."
    return Exported(Path(output_dir), ("mine",))
"""


def write_list(
    patches, output_dir, *, base=None, hub=None, size: int = 3, share: float | None = None, on: bool = True, word="a"
):
    """A list of the patches.

    More words.
    """
    return Exported(output_dir, (), {"patches": patches, "size": size, "share": share, "on": on, "word": word})


@pytest.fixture
def a_list():
    register_export_format("a-list", write_list)
    yield FORMATS["a-list"]
    FORMATS._registered.pop("a-list")


def test_a_format_of_ones_own_has_the_first_line_as_help_and_its_own_options(a_list):
    assert a_list.help == "A list of the patches."
    assert list(a_list.options()) == ["size", "share", "on", "word"]
    with pytest.raises(ExportError, match="The name 'a-list' is taken by another export format"):
        register_export_format("a-list", write_list)


def test_options_get_the_types_that_the_writer_names(a_list, tmp_path):
    given = {"size": "5", "share": "0.5", "on": "false", "word": "7"}
    done = export_as("a-list", ("x", "y"), tmp_path, options=given)
    assert done.facts == {"patches": ["x", "y"], "size": 5, "share": 0.5, "on": False, "word": "7"}
    assert export_as("a-list", ["x"], tmp_path).facts["size"] == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a-lst", {}, "`format='a-lst'` is unknown. Did you mean 'a-list'?"),
        ("a-list", {"siz": "1"}, "The format 'a-list' has no option `siz`. Did you mean `size`?"),
        ("a-list", {"size": "many"}, "`size=many`: expected a whole number"),
        ("a-list", {"share": "half"}, "`share=half`: expected a number"),
        ("a-list", {"on": "1"}, "`on=1`: expected true or false"),
    ],
)
def test_what_is_wrong_is_named(a_list, tmp_path, name, options, message):
    with pytest.raises(ExportError) as error:
        export_as(name, ["x"], tmp_path, options=options)
    assert message in str(error.value)


def test_what_is_no_format_is_refused():
    with pytest.raises(ExportError, match="'x' is a int; expected a function"):
        register_export_format("x", 3)
    with pytest.raises(ExportError, match="does not take `output_dir`, `base`, `hub`"):
        register_export_format("x", lambda patches: None)
    assert "x" not in FORMATS


def test_an_installed_package_offers_one_by_an_entry_point(tmp_path, monkeypatch):
    install(tmp_path, "own-format", {ENTRY_POINTS: {"mine": "own_format:write"}}, own_format=MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert FORMATS["mine"].help == "For an engine of my own."
    assert export_as("mine", ["x"], tmp_path).files == ("mine",)


def test_every_format_of_ours_takes_what_the_command_gives():
    for name, one in FORMATS.items():
        assert isinstance(one, ExportFormat) and one.help.endswith("."), name
        assert all(each.default is not each.empty for each in one.options().values()), name
        assert not {"patches", "output_dir", "base", "hub"} & set(one.options())
