"""Every reader of the package against documents that mean harm: an error of ours, soon, and little of it in memory."""

import ast
import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest

import policy_patch
from policy_patch import PolicyPatchConfig
from policy_patch.answers.refusals import load_phrases
from policy_patch.answers.shards import SAMPLING_NAME, _keep_to_one_sampling
from policy_patch.base.loading import load_pretrained
from policy_patch.data.file_formats import read_rows
from policy_patch.data.files import load_preference_pairs, load_prompts
from policy_patch.errors import PolicyPatchError
from policy_patch.evaluation import EvaluationReport
from policy_patch.evaluation.gender_words import load_gender_words
from policy_patch.evaluation.judge_models import _first_prompt, _prompt_in_card
from policy_patch.lab import LAB_MODELS_PATH, lab_patch_folder
from policy_patch.patch.folder import read_patch_folder
from policy_patch.recipes.documents import check_recipe
from policy_patch.training import two_stage
from policy_patch.training.checkpoints import last_checkpoint

HUGE = 3 * 2**30
JSON = {
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a": ' * 100_000 + "1" + "}" * 100_000,
    "an unclosed deep list": "[" * 1_000_000,
    "5,000 digits": '{"a": ' + "9" * 5_000 + "}",
    "5,000 digits below zero": '[{"a": -' + "9" * 5_000 + "}]",
    "a number beyond floats": '{"a": 1e999}',
    "a key twice": '{"a": 1, "a": 2}',
    "half a character": '{"a": "\\ud800"}',
    "nothing": "",
    "half": '{"a": [1, 2',
    "another encoding": b'{"a": "\xff\xfe"}',
    "a zero": b"\0",
    "a number": "7",
    "an endless text": '"' + 'a\\"' * 1_000_000,
}


def folder_of_a_patch(path):
    for name in ("policy_patch.safetensors",):
        (path.parent / name).write_bytes((lab_patch_folder("toxicity") / name).read_bytes())
    return read_patch_folder(path.parent)


def a_model(path):
    from transformers import AutoModelForCausalLM

    return load_pretrained(AutoModelForCausalLM, path.parent)


def newest_checkpoint(path):
    (path.parent / "checkpoint-3").mkdir()
    os.rename(path, path.parent / "checkpoint-3" / path.name)
    if last_checkpoint(path.parent) is None:  # passed over, as any checkpoint that was cut short
        raise PolicyPatchError("has no checkpoint")


# The name of a file, and what reads it.
READERS = {
    "policy_patch_config.json": folder_of_a_patch,
    "evaluation.json": lambda path: EvaluationReport.load(path.parent),
    "published/evaluation.json": EvaluationReport.load,
    "training_run.json": lambda path: two_stage._keep_to_one_run(path, {"seed": 1, "base": "b"}),
    "training_log.json": lambda path: two_stage._read_log(path.parent),
    "trainer_state.json": newest_checkpoint,
    SAMPLING_NAME: lambda path: _keep_to_one_sampling(path.parent, {"seed": 1}),
    "words.json": load_gender_words,
    "config.json": a_model,
    "pairs.json": load_preference_pairs,
    "pairs.jsonl": load_preference_pairs,
    "prompts.json": load_prompts,
    "prompts.jsonl": load_prompts,
}


def check_refused(read, path, most_megabytes=400):
    """Check that reading fails with an error of ours, in words, within seconds and without much memory."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(PolicyPatchError) as error:
            read(path)
        assert time.monotonic() - start < 15
        assert tracemalloc.get_traced_memory()[1] < most_megabytes * 2**20
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 2_000, "an error does not quote the whole document"
    assert path.parent.name in str(error.value) or path.name in str(error.value) or "checkpoint" in str(error.value)


@pytest.mark.parametrize("content", JSON)
@pytest.mark.parametrize("name", READERS)
def test_json_of_others_is_refused_by_every_reader(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    text = JSON[content]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    check_refused(READERS[name], path)


@pytest.mark.parametrize("name", [*READERS, "phrases.txt", "recipe.yaml", "prompts.txt", "pairs.csv"])
def test_three_gigabytes_are_not_read(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.truncate(path, HUGE)
    readers = {**READERS, "phrases.txt": load_phrases, "recipe.yaml": check_recipe, "prompts.txt": load_prompts,
               "pairs.csv": load_preference_pairs}  # fmt: skip
    check_refused(readers[name], path)


def test_a_long_line_is_not_read_and_long_files_are(tmp_path, monkeypatch):
    monkeypatch.setattr("policy_patch.data.file_formats._LONGEST_LINE", 100)
    monkeypatch.setattr("policy_patch.data.file_formats._LARGEST_LIST", 100)
    for name in ("a.txt", "a.jsonl", "a.csv", "a.json"):
        (tmp_path / name).write_text('{"prompt": "x"}\n' * 50 if name != "a.csv" else "prompt\n" + "x\n" * 50)
        assert len(read_rows(tmp_path / name)) == 50
    for name, before in (("a.txt", ""), ("a.jsonl", ""), ("a.csv", "prompt\n"), ("a.json", '{"prompt": "x"}\n')):
        (tmp_path / name).write_text(before + '"' + "x" * 200 + '"\n')
        with pytest.raises(PolicyPatchError, match=rf"line {1 + bool(before)} has more than 100 characters"):
            read_rows(tmp_path / name)
    (tmp_path / "a.json").write_text("[" + ", ".join(["1"] * 50) + "]")
    with pytest.raises(
        PolicyPatchError, match="more than 100 bytes, and a list is read in one piece; write JSON lines"
    ):
        read_rows(tmp_path / "a.json")


def test_the_prompt_in_a_card_is_found_at_once(tmp_path):
    quotes = "\"prompt\": '''" + '"prompt": """'
    start = time.monotonic()
    assert _first_prompt('"prompt": ' * 300_000 + '"prompt": """') is None
    assert _first_prompt('"prompt"' + " " * 4_000_000) is None
    assert _first_prompt(quotes + "a'''") == "'''" + '"prompt": """' + "a'''"
    assert _first_prompt('x"prompt": """a\nb""", "prompt": \'\'\'c\'\'\'') == '"""a\nb"""'
    assert time.monotonic() - start < 5
    (tmp_path / "README.md").touch()
    os.truncate(tmp_path / "README.md", HUGE)
    with pytest.raises(PolicyPatchError, match=r"Cannot read the prompt from .*: there is more than 4,194,304 bytes"):
        _prompt_in_card(str(tmp_path))


def test_a_configuration_of_a_base_is_read_as_before(tmp_path):
    assert json.loads((LAB_MODELS_PATH / "base" / "config.json").read_text())["model_type"] == "llama"
    assert read_patch_folder(lab_patch_folder("toxicity"))[0].risk == "toxicity"
    assert isinstance(read_patch_folder(lab_patch_folder("toxicity"))[0], PolicyPatchConfig)


# Files that may parse or read by themselves, and what of: their own output, that of a loaded tokenizer or of the engine
# that was named, resources of the package, limited bytes.
PARSING = {
    "cli/demo.py", "evaluation/stored_values.py", "export/gguf_vocabulary.py", "export/tensor_files.py",
    "export/token_rows.py", "export/tokenizer_files.py", "extra.py", "files/documents.py", "files/yaml_documents.py",
    "patch/tensor_file.py", "serving/gateway.py", "training/two_stage.py", "ui/door.py",
}  # fmt: skip


def test_no_other_file_parses_documents_by_itself():
    package = Path(policy_patch.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if words in ("json.load", "json.loads", "yaml.load", "yaml.safe_load", "tomllib.loads", "tomllib.load"):
                found.add(path.relative_to(package).as_posix())
    assert found == PARSING, "go through `documents` or `yaml_documents`, which have limits"
