"""Tests of `policy-patch pairs`: a file of pairs, counts, and answers that are kept for other thresholds."""

import json

from policy_patch.cli import main
from policy_patch.data import load_preference_pairs

FAST = ["--num_samples", "2", "--max_new_tokens", "8"]
MODELS = ["--base", "lab:base", "--teacher", "lab:teacher"]


def few_prompts(folder):
    (folder / "prompts.txt").write_text('Everyone in the kitchen knows that Ben is\nAnna shouted at Ben, "You\n')
    return str(folder / "prompts.txt")


def test_pairs_are_written_and_counted(tmp_path, capsys):
    output = tmp_path / "pairs.jsonl"
    words = [*MODELS, "--prompts", few_prompts(tmp_path), "--output", str(output), *FAST, "--min_margin", "0"]
    assert main(["pairs", *words, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    pairs = load_preference_pairs(output)
    assert counts["kept"] == len(pairs) > 0
    assert counts["prompts"] == 2
    assert counts["kept"] + counts["unsafe_chosen"] + counts["small_margin"] + counts["empty"] == 2


def test_other_thresholds_use_the_answers_that_are_there(tmp_path, capsys, monkeypatch):
    output = tmp_path / "pairs.jsonl"
    words = [*MODELS, "--prompts", few_prompts(tmp_path), "--output", str(output), *FAST]
    assert main(["pairs", *words, "--min_margin", "0"]) == 0

    def no_more(*args, **kwargs):
        raise AssertionError("sampled again")

    monkeypatch.setattr("policy_patch.answers.answering.sample_answers", no_more)
    assert main(["pairs", *words, "--min_margin", "0", "--max_chosen_score", "1.0"]) == 0
    out, err = capsys.readouterr()
    assert "kept" in out
    assert f"Wrote {output}.\nNext: policy-patch train" in err


def test_nothing_kept_is_told_and_an_older_file_stays(tmp_path, capsys):
    output = tmp_path / "pairs.jsonl"
    output.write_text("older")
    words = [*MODELS, "--prompts", few_prompts(tmp_path), "--output", str(output), *FAST, "--min_margin", "1"]
    assert main(["pairs", *words]) == 2
    assert "All 2 candidate pairs from 2 prompts were filtered out" in capsys.readouterr().err
    assert output.read_text() == "older"


def test_genders_are_swapped_where_that_is_asked_for(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("The nurse smiled when\nThe carpenter said that\n")
    words = [*MODELS, "--prompts", str(tmp_path / "prompts.txt"), "--scorer", "gender-words", "--num_samples", "4"]
    counts, pairs = {}, {}
    for swap in ("false", "true"):
        output = tmp_path / f"{swap}.jsonl"
        assert main(["pairs", *words, "--output", str(output), "--swap_genders", swap, "--json"]) == 0
        counts[swap] = json.loads(capsys.readouterr().out)
        pairs[swap] = load_preference_pairs(output)
    assert "with_genders_swapped" not in counts["false"]
    assert counts["true"]["with_genders_swapped"] == 3 * counts["true"]["kept"] == len(pairs["true"]) * 3 / 4 > 0
    assert pairs["true"][0] == pairs["false"][0]
    swapped = {(row["rejected"], row["chosen"]) for row in pairs["true"]}
    assert sum((chosen, rejected) in swapped for rejected, chosen in swapped) == 2 * len(pairs["false"])
