"""Tests of `policy-patch train`: one recipe from models to a patch, overrides, and Ctrl-C without loss."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from datasets import Dataset

from policy_patch.cli import main
from policy_patch.patch.folder import read_patch_folder
from tests.processes import PATIENCE, started

PAIRS = [
    {"prompt": f"{name} is", "chosen": f" a {good} friend.", "rejected": f" a {bad} fool."}
    for name in ("Anna", "Ben", "Clara", "David")
    for good, bad in (("kind", "stupid"), ("patient", "dumb"))
]


@pytest.fixture
def recipe(tmp_path):
    """A recipe that takes seconds, with pairs from a file."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (tmp_path / "recipe.yaml").write_text(
        f"""
base: lab:base
output_dir: {tmp_path / "patch"}
patch: {{risk: toxicity, num_virtual_tokens: 5, init: vocab, patch_version: 1.2.0}}
data: {{pairs: {tmp_path / "pairs.jsonl"}}}
sft: {{max_steps: 4, per_device_train_batch_size: 2, learning_rate: 1e-2, logging_steps: 2}}
dpo: {{max_steps: 4, per_device_train_batch_size: 2, beta: 0.2, logging_steps: 2}}
"""
    )
    return tmp_path / "recipe.yaml"


def test_a_recipe_becomes_a_patch(recipe, tmp_path, capsys):
    assert main(["train", str(recipe)]) == 0
    out, err = capsys.readouterr()
    config, vectors = read_patch_folder(tmp_path / "patch")
    assert (config.risk, config.patch_version, config.base_model_name_or_path) == ("toxicity", "1.2.0", "lab:base")
    assert vectors.shape == (5, 128)
    for column in ("reward accuracy", "vector norm", "moved"):
        assert column in out
    assert f"Curves: {tmp_path / 'patch' / 'training_curves.png'}" in err
    assert f"Report: {tmp_path / 'patch' / 'training_report.md'}" in err
    assert (tmp_path / "patch" / "training_curves.png").is_file()
    assert f"Next: policy-patch generate {tmp_path / 'patch'} --base lab:base" in err
    assert read_patch_folder(tmp_path / "patch" / "sft")[1].ne(vectors).any()


def test_an_option_overrides_the_recipe(recipe, tmp_path, capsys):
    words = ["--sft.max_steps", "2", "--dpo.max_steps", "0", "--output_dir", str(tmp_path / "other"), "--json"]
    assert main(["train", str(recipe), *words]) == 0
    logged = json.loads(capsys.readouterr().out)
    assert [entry["step"] for entry in logged["sft"]] == [1, 2, 2]
    assert logged["dpo"] == []
    assert not (tmp_path / "patch").exists()


def test_pairs_are_sampled_where_the_recipe_gives_prompts(recipe, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text('Everyone in the kitchen knows that Ben is\nAnna shouted at Ben, "You\n')
    words = ["--data.pairs", "null", "--teacher", "lab:teacher", "--data.prompts", str(tmp_path / "prompts.txt")]
    words += ["--data.num_samples", "2", "--data.max_new_tokens", "6", "--data.min_margin", "0"]
    words += ["--data.max_chosen_score", "1.0", "--dpo.max_steps", "1", "--sft.max_steps", "1"]
    assert main(["train", str(recipe), *words]) == 0
    assert "kept: 2" in capsys.readouterr().err
    assert (tmp_path / "patch" / "pairs.jsonl").is_file()
    assert json.loads((tmp_path / "patch" / "answers" / "sampling.json").read_text())["scorer"].startswith(
        "alt-profanity"
    )


def test_a_patch_is_trained_further(recipe, tmp_path, capsys):
    assert main(["train", str(recipe)]) == 0
    words = ["--patch.start_from", str(tmp_path / "patch"), "--output_dir", str(tmp_path / "next")]
    assert main(["train", str(recipe), *words]) == 0
    first, second = (read_patch_folder(tmp_path / name) for name in ("patch", "next"))
    assert first[1].shape == second[1].shape
    assert first[1].ne(second[1]).any()


def test_pairs_of_several_risks_make_one_patch(recipe, tmp_path, capsys):
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in PAIRS]
    Dataset.from_list(rows[:3]).to_csv(tmp_path / "gendered.csv")
    words = ["--data.pairs", f"{{toxicity: {tmp_path / 'pairs.jsonl'}, gender_bias: {tmp_path / 'gendered.csv'}}}"]
    words += ["--data.weights", "{toxicity: 1, gender_bias: 1}", "--patch.risk", "null", "--patch.init", "text"]
    assert main(["train", str(recipe), *words]) == 0
    err = capsys.readouterr().err
    assert "gender_bias: " in err and ", toxicity: " in err
    config, _ = read_patch_folder(tmp_path / "patch")
    assert config.risk == "toxicity+gender_bias"
    assert config.init_text.startswith("Continue the text") and "without assuming their gender" in config.init_text
    assert json.loads((tmp_path / "patch" / "training_run.json").read_text())["rows"] > len(PAIRS) + 3


def test_messages_without_a_chat_template_are_told(recipe, tmp_path, capsys):
    answers = {name: [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": name}] for name in ("a", "b")}
    (tmp_path / "chat.jsonl").write_text(json.dumps({"chosen": answers["a"], "rejected": answers["b"]}))
    assert main(["train", str(recipe), "--data.pairs", str(tmp_path / "chat.jsonl")]) == 2
    assert "the tokenizer has no chat template" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dpo.betta", "0.3"], "`dpo.betta` is unknown (given: 0.3). Did you mean `dpo.beta`"),
        (["--patch.num_virtual_tokens", "0"], "`patch.num_virtual_tokens=0` must be a whole number of at least 1"),
        (["--data.pairs", "nowhere.jsonl"], "Cannot read `nowhere.jsonl`"),
        (["--data.pairs", "null"], "The recipe names no training data"),
        (["--data.pairs", "nowhere.xml"], "`nowhere.xml`"),
        (["--data.weights", "{toxicity: 1}"], "`data.weights` are shares of risks, but `data.pairs` names no risks"),
        (["--data.split", "test"], "`split='test'` works for datasets on the Hub only"),
        (["--dpo.reference", "teacher"], '`dpo.reference="teacher"` needs `teacher`'),
        (["--sft.max_steps", "0", "--dpo.max_steps", "0"], "nothing to train"),
        (["--patch.init", "text", "--patch.risk", "my_own"], '`patch.init="text"` needs an `init_text`'),
    ],
)
def test_bad_input_is_told_in_one_line(recipe, words, message, capsys):
    assert main(["train", str(recipe), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def run_until_interrupted(recipe, output_dir, after):
    """Run `train`, send Ctrl-C once the file `after` is there, and return the exit code and stderr."""
    command = [sys.executable, "-m", "policy_patch.cli", "train", str(recipe), "--output_dir", str(output_dir)]
    with started(
        [*command, "--dpo.max_steps", "60", "--sft.max_steps", "60", "--sft.save_steps", "5", "--dpo.save_steps", "5"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        while not (output_dir / after).exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=PATIENCE)[1]
    return process.returncode, err


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_ctrl_c_leaves_a_checkpoint_from_which_the_same_command_goes_on(recipe, tmp_path, stage):
    code, err = run_until_interrupted(recipe, tmp_path / "stopped", f"{stage}/checkpoint-5/trainer_state.json")
    assert code == 130
    assert "A checkpoint was saved" in err
    steps = ["--dpo.max_steps", "60", "--sft.max_steps", "60", "--sft.save_steps", "5", "--dpo.save_steps", "5"]
    checkpoints = sorted((tmp_path / "stopped" / stage).glob("checkpoint-*"))
    assert checkpoints
    assert not (tmp_path / "stopped" / stage / "policy_patch_config.json").exists()
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "stopped"), *steps]) == 0
    assert main(["train", str(recipe), "--output_dir", str(tmp_path / "straight"), *steps]) == 0
    stopped, straight = (read_patch_folder(tmp_path / name)[1] for name in ("stopped", "straight"))
    assert stopped.equal(straight)
