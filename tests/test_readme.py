"""Tests that what README and documentation say can be run: snippets, recipes, commands and links."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from policy_patch import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    whole = [block for block in blocks(ROOT / "README.md", "python") if "load_lab_base" in block]
    assert len(whole) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(whole[0], "README.md", "exec"), {})
    assert (tmp_path / "tox-patch" / "policy_patch.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21 asks for it
@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_python_of_a_page_that_stands_by_itself_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "python"):
        if "load_lab_base()" in block:
            exec(compile(block, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_are_recipes(page, tmp_path):
    for block in blocks(page, "yaml"):
        (tmp_path / "recipe.yaml").write_text(block)
        assert isinstance(yaml.safe_load(block), dict)
        assert cli._parser().parse_args(["train", "--config", str(tmp_path / "recipe.yaml")]).train.output_dir


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_commands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("base: org/model\noutput_dir: tox-patch\n")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["policy-patch"] and "policy_patch/" not in line:
                assert cli._parser().parse_args(cli._with_config(words[1:])).command == words[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_files_that_are_named_exist():
    for name in re.findall(
        r"`((?:examples|benchmarks|docs|policy_patch)/[\w./]+\.\w+)`", (ROOT / "README.md").read_text()
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("package", ["", ".data", ".evaluation", ".training", ".lab", ".ui"])
def test_every_public_name_is_on_the_api_page(package):
    module = importlib.import_module(f"policy_patch{package}")
    page = (ROOT / "docs" / "api.md").read_text()
    whole = set(re.findall(r"^::: (\S+)\n(?!    options)", page + "\n", re.MULTILINE))
    parts = {
        f"{place}.{name.strip()}"
        for place, names in re.findall(
            r"^::: (\S+)\n    options:\n      members: \[(.*?)\]", page, re.MULTILINE | re.DOTALL
        )
        for name in names.split(",")
    }
    missing = []
    for name in module.__all__:
        value = getattr(module, name)
        home = getattr(value, "__module__", None)
        if callable(value) and home not in whole and f"{home}.{name}" not in whole | parts:
            missing.append(f"{home}.{name}")
    assert not missing
