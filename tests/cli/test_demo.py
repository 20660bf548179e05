"""Test of `policy-patch demo`, at a small size: patch, comparison, samples, picture, and going on where it stopped."""

import json
import socket
import subprocess
import sys

import pytest

from policy_patch.cli import main
from policy_patch.patch.folder import read_patch_folder


def test_the_demo_trains_and_shows_the_difference(tmp_path, capsys):
    words = ["demo", "--output_dir", str(tmp_path), "--num_prompts", "12", "--num_samples", "4"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    for system in ("base", "teacher", "safe prompt", "SFT only", "DPO only", "patch"):
        assert system in out
    assert "without and with the patch" in out
    assert "miniature models" in err
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert read_patch_folder(tmp_path / "patch")[0].risk == "toxicity"
    change = json.loads((tmp_path / "evaluation.json").read_text())["systems"]
    toxic = [change[name]["metrics"]["lab-insults"]["mean_toxicity"]["value"] for name in ("base", "patch")]
    assert toxic[1] < 0.5 * toxic[0]
    vectors = (tmp_path / "patch" / "policy_patch.safetensors").read_bytes()
    assert main([*words, "--json"]) == 0  # what is trained is not trained again
    assert list(json.loads(capsys.readouterr().out)["systems"]) == list(change)
    assert (tmp_path / "patch" / "policy_patch.safetensors").read_bytes() == vectors


def test_a_port_that_is_taken_is_told():
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = [sys.executable, "-m", "policy_patch.cli", "demo", "--ui", "--port", port]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"Cannot listen on 127.0.0.1:{port}" in done.stderr
