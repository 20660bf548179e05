"""Tests that what README and documentation say can be run: snippets, recipes, commands and links."""

import ast
import functools
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from policy_patch import PolicyPatchModel, cli
from policy_patch.lab import (
    LAB_MODELS_PATH,
    lab_patch_folder,
    lab_prompts,
    load_lab_base,
    load_lab_teacher,
    load_lab_tokenizer,
)
from policy_patch.release.gate_file import Gate

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def recipes(page):
    """The recipes of a page; other YAML is for CI, or a gate."""
    return [block for block in blocks(page, "yaml") if not {"jobs", "measure"} & yaml.safe_load(block).keys()]


def gates(page):
    return [block for block in blocks(page, "yaml") if "measure" in yaml.safe_load(block)]


def links(page):
    return re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))


def commands(page):
    """The words of each `policy-patch` command of a page."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    ours = [line for line in lines if line.startswith("policy-patch ") and "policy_patch/" not in line]
    return [shlex.split(line.split(" > ")[0], comments=True) for line in ours]


def cases(find):
    """One case for each thing that `find` finds on a page."""
    return [pytest.param(each, id=f"{page.name}-{at}") for page in PAGES for at, each in enumerate(find(page))]


def standing(page):
    """The Python that runs by itself, on the lab's models. That of the README is run by a test of its own."""
    alone = re.compile(r'load_lab_base\(\)|lab_patch_folder\(|base="lab:base"')
    return [block for block in blocks(page, "python") if alone.search(block) and page.name != "README.md"]


def test_the_pages_hold_what_the_tests_below_run():
    """A page, or a pattern above, that changes so that nothing is found would leave nothing to run."""
    least = {
        standing: {"from_peft.md": 2, "in_transformers.md": 1, "own_format.md": 1, "start.md": 1},
        recipes: {"data.md": 2, "monitoring.md": 1, "training.md": 1, "tutorial_toxicity.md": 1},
        commands: {"evaluation.md": 4, "hub.md": 5, "study_real_risks.md": 5, "start.md": 3, "space.md": 3},
        links: {"README.md": 15, "index.md": 15, "training.md": 5},
    }
    for find, expected in least.items():
        found = Counter({page.name: len(find(page)) for page in PAGES})
        assert not Counter(expected) - found, f"{find.__name__} are missing, or not found any more"


def test_the_first_block_of_the_readme_in_a_new_file_prints_what_the_readme_says(tmp_path):
    """As a newcomer does it: pasted into a file, run from another folder, without a network."""
    first, said = blocks(ROOT / "README.md", "python")[0], blocks(ROOT / "README.md", "text")[0]
    (tmp_path / "first.py").write_text(first)
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, env={**os.environ, **offline}, capture_output=True, text=True,
        timeout=250, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout == said
    before, after = said.splitlines()
    assert before.startswith("base:") and after.startswith("patched:") and before.split(":")[1] != after.split(":")[1]


SMALLER = {  # the block as it stands takes two minutes
    '"num_samples": 4': '"num_samples": 2, "num_prompts": 32', '{"max_steps": 80}': '{"max_steps": 4}',
    '"max_steps": 30': '"max_steps": 2', '"num_prompts": 60, "num_samples": 5': '"num_prompts": 4, "num_samples": 2',
    "org/tox-patch": "acme/tox-patch",
}  # fmt: skip


def test_train_evaluate_publish_and_use_of_the_readme_run_in_one_block(hub, tmp_path, monkeypatch, capsys):
    block = blocks(ROOT / "README.md", "python")[1]
    assert len(block.splitlines()) <= 20, "one block of twenty lines"
    for old, new in SMALLER.items():
        assert old in block
        block = block.replace(old, new)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "tox-patch" / "policy_patch.safetensors").is_file()
    assert capsys.readouterr().out.count("Estimate(value=") == 4
    trained = PolicyPatchModel.from_pretrained(load_lab_base(), tmp_path / "tox-patch").patches["default"]
    assert (names["model"].patches["default"] == trained).all(), "what is used is what was trained"
    assert (names["model"].patches["default"] != trained.flip(0)).any()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21 asks for it
@pytest.mark.parametrize("block", cases(standing))
def test_python_that_stands_by_itself_runs_and_prints_what_it_says(block, tmp_path, monkeypatch, capsys):
    """A comment in the line after a `print` is what it prints."""
    if "peft" in block:
        pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {})
    printed = capsys.readouterr().out
    for said in re.findall(r"print\(.*\)\n *# (.*)", block):
        assert said in printed


def unknown(block):
    """Return the names of our package in a block of Python that are not there, and keywords that a call cannot take."""
    tree, names, wrong = ast.parse(block), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "policy_patch":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if hasattr(module, alias.name):
                    names[alias.asname or alias.name] = getattr(module, alias.name)
                else:
                    wrong.append(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        called = re.fullmatch(r"(\w+)((?:\.\w+)*)", ast.unparse(node.func)) if isinstance(node, ast.Call) else None
        if called is None or called[1] not in names:
            continue  # the method of a value: what that is, is known when it runs only
        function = functools.reduce(getattr, called[2].split(".")[1:], names[called[1]])
        parameters = inspect.signature(function).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in parameters) and not hasattr(function, "__dataclass_fields__"):
            continue
        known = {one.name for one in parameters} | set(getattr(function, "__dataclass_fields__", ()))
        wrong += [f"{called[0]}({each.arg}=)" for each in node.keywords if each.arg and each.arg not in known]
    return wrong


def test_unknown_names_and_keywords_are_found():
    assert unknown("from policy_patch import PolicyPatchModl") == ["policy_patch.PolicyPatchModl"]
    assert unknown("from policy_patch import PolicyPatchConfig as C\nC(num_virtual_tokens=3, numb=2)") == ["C(numb=)"]
    assert unknown("from policy_patch.data import build_preference_pairs as b\nb(base, scorr=s)") == ["b(scorr=)"]


@pytest.mark.parametrize("block", cases(lambda page: blocks(page, "python")))
def test_python_on_a_page_names_what_is_there(block):
    """Also blocks that need models or data of the reader's own, which no test can run."""
    assert unknown(block) == []


def test_the_python_of_the_hub_runs_against_one(hub, tmp_path, monkeypatch):
    page = "docs/hub.md"
    monkeypatch.chdir(tmp_path)
    base, tokenizer = load_lab_base(), load_lab_tokenizer()
    for repo, risk, versions in (
        ("acme/tox-patch", "toxicity", ["1.0.0", "1.1.0"]),
        ("acme/bias-patch", "gender_bias", ["1.0.0"]),
    ):
        model = PolicyPatchModel.from_pretrained(base, lab_patch_folder(risk))
        for version in versions:
            config = replace(model.patch_config["default"], patch_version=version)
            model.patch_config["default"] = replace(config, base_model_name_or_path=str(LAB_MODELS_PATH / "base"))
            model.push_to_hub(repo)
            model.patches["default"].data.mul_(1.01)
    ran = [block.replace('"org/', '"acme/') for block in blocks(ROOT / page, "python") if '"org/tox-patch' in block]
    assert ran
    for block in ran:
        exec(compile(block, page, "exec"), {"base": load_lab_base(), "tokenizer": tokenizer})


def test_the_python_of_an_evaluation_runs_with_another_judge(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(ROOT / "docs" / "evaluation.md", "python") if "load_judge" in block]
    block = block.replace("guard:org/guard", "refusal-phrases").replace("max_new_tokens=128", "max_new_tokens=16")
    model = PolicyPatchModel.from_pretrained(load_lab_base(), lab_patch_folder("harmfulness"))
    model.patch_config["default"] = replace(model.patch_config["default"], filtered_by=None)  # not by this judge
    teacher = load_lab_teacher()
    names = {"model": model.eval(), "tokenizer": load_lab_tokenizer(), "teacher": teacher, "larger": teacher}
    names |= {
        "harmful_prompts": lab_prompts("harmfulness", "test")[:6],
        "look_alikes": lab_prompts("look_alike", "test")[:6],
    }
    exec(compile(block, "evaluation.md", "exec"), names)
    assert (tmp_path / "tox-patch" / "evaluation.json").is_file()


@pytest.mark.parametrize("block", cases(recipes))
def test_recipes_are_recipes(block, tmp_path):
    assert isinstance(yaml.safe_load(block), dict)
    is_part = "base" not in yaml.safe_load(block)  # a few keys that go into any recipe
    (tmp_path / "recipe.yaml").write_text("base: org/model\noutput_dir: tox-patch\n" * is_part + block)
    assert cli.parse(["train", "--config", str(tmp_path / "recipe.yaml")])[1].output_dir


@pytest.mark.parametrize("block", cases(gates))
def test_gates_are_gates(block, tmp_path):
    (tmp_path / "gate.yaml").write_text(block)
    measured = Gate.from_yaml(tmp_path / "gate.yaml").measure
    assert measured.prompts or measured.own_task


@pytest.mark.parametrize("words", cases(commands))
def test_commands_are_commands(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("base: org/model\noutput_dir: tox-patch\n")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert cli.parse(words[1:])[0] == words[1]


@pytest.mark.parametrize("risk", ["toxicity", "gender_bias", "harmfulness"])
def test_the_evaluation_of_a_tutorial_runs(risk, tmp_path):
    page = ROOT / "docs" / f"tutorial_{risk}.md"
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    (words,) = [shlex.split(line) for line in lines if line.startswith("policy-patch evaluate")]
    small = ["--num_prompts", "6", "--num_samples", "1", "--output_dir", str(tmp_path)]
    assert cli.main(["evaluate", str(lab_patch_folder(risk)), *words[3:], *small]) == 0
    assert (tmp_path / "evaluation.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_files_that_are_named_exist():
    pattern = r"`((?:examples|benchmarks|docs|policy_patch)/[\w./]+\.\w+)`(?! of commit)"  # that is of its time
    names = [name for page in PAGES for name in re.findall(pattern, page.read_text(encoding="utf-8"))]
    assert names and [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "package", ["", ".model", ".hub", ".model_card", ".data", ".evaluation", ".training", ".recipes", ".lab", ".ui"]
)
def test_every_public_name_is_on_the_api_page(package):
    module = importlib.import_module(f"policy_patch{package}")
    page = (ROOT / "docs" / "api.md").read_text()
    whole = set(re.findall(r"^::: (\S+)\n(?!    options:\n      members)", page + "\n", re.MULTILINE))
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
