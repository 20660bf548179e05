"""`benchmarks/overhead.py` on a tiny base: systems that take turns by token generate what they generate alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from tests.tiny_models import tiny_model

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "overhead.py"
IDS = torch.tensor([[1, 5, 6, 7]])


def test_turns_by_token_change_no_token(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    from overhead import Turns, generate

    patched = PolicyPatchModel(tiny_model())
    patched.add_patch("a", PolicyPatchConfig(num_virtual_tokens=3, init="vocab"))
    patched.set_patch("a")
    patched.requires_grad_(False)  # so that it generates in inference mode
    models = [patched, tiny_model("gpt2"), patched.get_base_model()]
    alone = [generate(model, IDS, 6) for model in models]
    found, modes = {}, set()
    models[1].lm_head.register_forward_hook(lambda *_: modes.add(torch.is_inference_mode_enabled()))

    def run(number, ids, new, **more):
        found[number] = generate(models[number], ids, new, **more)

    turns = [Turns(lambda *args, number=number, **more: run(number, *args, **more), IDS, 6) for number in range(3)]
    with torch.no_grad():
        while any(not each.dead for each in turns):
            for each in turns:
                each.switch()
        assert not torch.is_grad_enabled()
    assert modes == {False}, "the mode of one generation reached another"
    assert all(torch.equal(found[number], alone[number]) for number in range(3))
    assert not torch.equal(found[0], found[2])
    assert all(len(each.pieces) == 1 + 6 + 1 for each in turns)  # before the prompt, to each token, and the way out


@pytest.mark.parametrize("turns", ["generation", "token"])
def test_each_round_has_the_seconds_of_every_system_and_a_second_call_measures_nothing_anew(tmp_path, turns):
    output = tmp_path / "overhead.json"
    words = ["--preset", "tiny", "--threads", "1", "--rounds", "2", "--new_tokens", "4", "--turns", turns]
    words += ["--batch_sizes", "1", "--prompt_lengths", "8", "--patch_lengths", "3", "--output", str(output)]
    command = [sys.executable, str(SCRIPT), *words, "--systems", "base", "patch"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert first.returncode == 0, first.stderr[-3000:]
    done = json.loads(output.read_text())
    (point,) = done["points"]
    assert done["settings"]["turns"] == turns and list(point["times"]) == ["base", "patch"]
    for parts in point["times"].values():
        rounds = list(zip(*(parts[part] for part in ("prefill", "decoding", "whole")), strict=True))
        assert len(rounds) == 2
        assert all(prefill > 0 and whole == pytest.approx(prefill + decoding) for prefill, decoding, whole in rounds)
    assert subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).returncode == 0
    assert json.loads(output.read_text()) == done
    done["settings"]["transformers"] = "5.0.0"
    output.write_text(json.dumps(done))
    other = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert other.returncode == 1 and "is of another run: transformers was '5.0.0', is now" in other.stderr
    assert json.loads(output.read_text()) == done
