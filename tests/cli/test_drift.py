"""`policy-patch drift` says steady or alarm with an exit code, draws the history, and compares two versions."""

import json

import pytest

from policy_patch.cli import main
from tests.recipes.served_release import PROMPTS, gateway, released


@pytest.fixture(scope="module")
def url():
    with gateway(f"tox={released()}") as (address, _):
        yield address


@pytest.fixture
def words(url, tmp_path):
    return [
        "drift", url, "--patch", f"tox={released()}", "--prompts", PROMPTS, "--num_prompts", "12", "--looks", "2",
        "--history", str(tmp_path / "drift.jsonl"),
    ]  # fmt: skip


def test_a_look_prints_its_figures_its_verdict_and_a_picture(words, tmp_path, capsys):
    picture = tmp_path / "drift.png"
    assert main([*words, "--model", "base+tox", "--plot", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert "toxic_rate (lab-insults)" in out and out.endswith("steady\n") and "A figure is worse if p <" in err
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([*words, "--model", "base", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "alarm" and found["probe"]["verdict"] == "absent" and len(found["figures"]) == 3


def test_bad_usage_and_a_dead_server_exit_with_2(words, url, tmp_path, capsys):
    assert main(["drift", "http://127.0.0.1:9/v1", *words[2:], "--model", "m", "--plot", str(tmp_path / "p.png")]) == 2
    out, err = capsys.readouterr()
    assert out == "no answer\n" and "cannot be reached" in err and "No picture yet" in err
    for wrong in (["drift", url], ["drift"], [*words, "--watch", "0"], ["drift", "--canary", "a"]):
        assert main(wrong) == 2
    assert main(["drift", "--canary", "base", "base+tox"]) == 2
    assert "give the address of its server" in capsys.readouterr().err


def test_a_watch_prints_a_line_for_each_look(words, capsys, monkeypatch):
    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("policy_patch.recipes.drift.time.sleep", stop)
    assert main([*words, "--model", "base+tox", "--watch", "60", "--json"]) == 130
    assert [json.loads(line)["verdict"] for line in capsys.readouterr().out.splitlines()] == ["steady"]


def test_a_canary_that_is_worse_exits_with_1(url, tmp_path, capsys):
    words = [
        "drift", url, "--canary", "base+tox", "base", "--prompts", PROMPTS, "--scorers", "lab-insults", "--num_prompts",
        "12", "--num_samples", "2", "--max_new_tokens", "12", "--output_dir", str(tmp_path),
    ]  # fmt: skip
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out.endswith("worse\n") and f"Candidate: base at {url}" in err
    swapped = ["base" if word == "base+tox" else "base+tox" if word == "base" else word for word in words]
    assert main([*swapped, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "better" and found["figures"][0]["num_prompts"] == 12
