"""Tests of `policy-patch evaluate --stack`: the matrix on the terminal and on disk, and what is refused."""

import json
from dataclasses import replace

import pytest

from policy_patch.cli import main
from policy_patch.patch.folder import read_patch_folder, write_patch_folder

FAST = [
    "--num_samples",
    "1",
    "--max_new_tokens",
    "4",
    "--num_resamples",
    "20",
    "--num_prompts",
    "2",
    "--orders",
    "given",
]


@pytest.fixture
def two(patch_folder, tmp_path):
    """Folders of two patches, one for each of two risks."""
    config, vectors = read_patch_folder(patch_folder)
    for name, risk in (("tox", "toxicity"), ("harm", "harmfulness")):
        write_patch_folder(tmp_path / name, replace(config, risk=risk), vectors)
    return f"{tmp_path / 'tox'},{tmp_path / 'harm'}"


def test_the_lab_is_measured_on_its_own_prompts_where_none_are_given(two, tmp_path, capsys):
    words = ["--stack", two, "--output_dir", str(tmp_path / "out"), "--scorers_of.toxicity", "lab-insults"]
    assert main(["evaluate", *words, *FAST]) == 0
    out, err = capsys.readouterr()
    assert "Every risk under every stack" in out and "tox + harm" in out and "harm + tox" not in out
    assert f"Wrote {tmp_path / 'out' / 'composition.json'}" in err
    values = json.loads((tmp_path / "out" / "composition.json").read_text())
    assert list(values["matrix"]) == ["toxicity", "harmfulness"]
    assert "over_refusal_rate" in values["matrix"]["harmfulness"]


def test_for_machines_the_matrix_is_on_stdout_alone(two, tmp_path, capsys):
    words = [
        "--stack",
        two,
        "--output_dir",
        str(tmp_path / "out"),
        "--prompts_of.toxicity",
        "lab:toxicity/test",
        "--json",
    ]
    assert main(["evaluate", *words, *FAST]) == 0
    assert list(json.loads(capsys.readouterr().out)["stacks"]) == ["tox", "harm", "tox + harm"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give a patch and `--prompts` to measure it on, or several patches with `--stack a,b`"),
        (["--stack", "ONE"], "1 patches and 1 risks; expected at least two patches and one risk"),
        (["--stack", "TWO", "--prompts_of.toxcity", "x"], "Did you mean 'toxicity'"),
    ],
)
def test_bad_input_is_told_in_one_line(two, words, message, capsys, tmp_path):
    words = [{"ONE": two.split(",")[0], "TWO": two}.get(word, word) for word in words]
    assert main(["evaluate", *words, *FAST, "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
