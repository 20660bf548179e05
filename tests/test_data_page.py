"""Tests that `docs/data.md` is true: each example row is read, the Python runs, errors are worded as it says."""

import json
import re
from pathlib import Path

import datasets.config
import pytest
from datasets import Dataset
from huggingface_hub import CommitOperationAdd, HfApi

from policy_patch.data import load_preference_pairs
from policy_patch.data.rows import check_dataset
from policy_patch.errors import DataError
from policy_patch.training.dataset import as_prompt_completion, with_explicit_prompts

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def test_each_format_has_an_example():
    table = PAGE.partition("## Formats")[2].partition("\n\nText:")[0]
    assert len(EXAMPLES) == len(re.findall(r"^\| \w", table, re.MULTILINE)) - 1  # the header


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_a_row_that_can_be_trained_on(example, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(example)
    pairs = load_preference_pairs(tmp_path / "pairs.jsonl")
    row = with_explicit_prompts(pairs)[0]
    prompt = "How am I?" if isinstance(row["prompt"], list) else "Anna said that you are"
    assert row["prompt"] == prompt or row["prompt"] == [{"role": "user", "content": prompt}]
    assert as_prompt_completion(pairs)[0]["completion"] in (" very kind.", [{"role": "assistant", "content": "Fine."}])


def test_an_implicit_prompt_ends_where_the_page_says():
    rows = Dataset.from_list([{"chosen": "You are kind.", "rejected": "You are known as a fool."}])
    assert with_explicit_prompts(rows)[0]["prompt"] == "You are k"
    assert '" kind." and the other with " known as a fool.", the prompt' in PAGE and 'therefore ends after " k"' in PAGE


def test_the_python_of_the_page_runs(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    row = json.loads(EXAMPLES[0])
    for name in ("pairs.jsonl", "rude.jsonl"):
        Path(name).write_text(json.dumps(row) + "\n")
    Dataset.from_list([row]).to_csv("gendered.csv")
    api = HfApi(token="hf_alice")
    api.create_repo("acme/pairs", repo_type="dataset")
    operations = [CommitOperationAdd(f"{split}.jsonl", json.dumps(row).encode()) for split in ("train", "test")]
    api.create_commit("acme/pairs", operations, commit_message="put", repo_type="dataset")
    api.create_tag("acme/pairs", tag="v1", repo_type="dataset")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block.replace("org/", "acme/"), "docs/data.md", "exec"), names)
        assert len(names["pairs"]) >= 1
    assert set(names["pairs"]["risk"]) == {"toxicity", "gender_bias"}


def test_errors_are_worded_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = {"prompt": "a", "chosen": "b", "rejected": "c"}
    chat = {name: [{"role": "user", "content": "a"}] for name in text}
    raised = []
    for rows in ([text, {**text, "chosen": None}], [chat, chat, {**chat, "chosen": "Fine."}]):
        Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(DataError) as caught:
            load_preference_pairs("pairs.jsonl")
        raised.append(str(caught.value))
    row = json.dumps(text)[:-1]
    for name, content in (
        ("pairs.jsonl", f'{row}, "id": 1}}\n{row}, "id": "x"}}'),
        ("pairs.jsonl", row.replace('"b"', '"\\ud83d"') + "}"),
        ("pairs.csv", "prompt,chosen,rejected\na,\udcfc,c\n"),
        ("pairs.jsonl", f'{row}, "id": 18446744073709551616}}'),
        ("pairs.jsonl", f'{row}, "chosen": "d"}}'),
        ("pairs.jsonl", f'{row}, "meta": {"[" * 20}'),
        ("pairs.csv", "prompt,chosen,rejected,chosen\na,b,c,d\n"),
        ("pairs.csv", f"prompt,chosen,rejected\na,{'b' * 131_073},c\n"),
    ):
        Path(name).write_text(content, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(DataError) as caught:
            load_preference_pairs(name)
        raised.append(str(caught.value))
    with pytest.raises(DataError) as caught:
        check_dataset(Dataset.from_list([text] * 7 + [{**text, "rejected": ""}]), ("chosen", "rejected"))
    raised.append(str(caught.value))
    told = [
        line.split(" | ")[1].removesuffix(" |").removesuffix(" ...") for line in PAGE.splitlines() if line[:1] == "|"
    ]
    for message in raised:
        assert any(len(words) > 40 and message.startswith(words) for words in told), message
