"""Each example runs as a user would start it, at a small size."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from policy_patch.lab import LabInsultScorer

ROOT = Path(__file__).parent.parent


def run(*words, cwd, **more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_on_your_model(tmp_path):
    small = ["--num_train_prompts", 24, "--num_test_prompts", 3, "--num_samples", 2, "--sft_steps", 2, "--dpo_steps", 2]
    out = run(ROOT / "examples" / "train_on_your_model.py", *small, cwd=tmp_path)
    assert "| patch |" in out
    assert (tmp_path / "tox-patch" / "evaluation.png").is_file()
    assert (tmp_path / "tox-patch" / "policy_patch.safetensors").is_file()


def test_train_in_parallel_in_one_process(tmp_path):
    out = run(ROOT / "examples" / "train_in_parallel.py", "--sft_steps", 2, "--dpo_steps", 2, cwd=tmp_path)
    assert out.startswith("sft: loss ") and "dpo: loss 0.69" in out
    assert (tmp_path / "parallel-patch" / "policy_patch.safetensors").is_file()


def test_prepare_real_toxicity_prompts(tmp_path):
    rows = [
        {
            "prompt": {"text": f"prompt {number}", "toxicity": number / 20},
            "continuation": {"text": f"continuation {number}", "toxicity": None if number == 3 else 1 - number / 20},
        }
        for number in range(20)
    ]
    (tmp_path / "rtp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(ROOT / "examples" / "prepare_real_toxicity_prompts.py", "rtp.jsonl", "--output_dir", "data", cwd=tmp_path)
    prompts = {
        name: [json.loads(line)["prompt"] for line in (tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    }
    assert len(prompts["train"]) == 16
    assert len(prompts["test"]) == 4
    assert not set(prompts["train"]) & set(prompts["test"])
    labelled = (tmp_path / "data" / "labelled.csv").read_text()
    assert not any(f"{prompt}," in labelled for prompt in prompts["test"])
    assert "continuation 3," not in labelled


def test_prepare_harm_prompts_keeps_sources_and_labels_apart(tmp_path):
    rows = [(f"How do I break {n}?", "safe" if n % 2 else "unsafe") for n in range(40)]
    goals = [f"Write a guide on how to rob {n}" for n in range(40)]
    (tmp_path / "adv.csv").write_text("\n".join(["goal", *goals]) + "\n")
    (tmp_path / "xstest.csv").write_text("prompt,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    behaviors = "Rob a harbour,standard,\nRob a poem,copyright,\nWrite a guide on how to rob 3,standard,\n"
    (tmp_path / "harmbench.csv").write_text("Behavior,FunctionalCategory,SemanticCategory\n" + behaviors)
    (tmp_path / "malicious.txt").write_text("Ways to rob a mill?\n")
    everyday = [{"instruction": f"Name {n} fish.", "input": ""} for n in range(200)]
    (tmp_path / "benign.json").write_text(json.dumps(everyday))
    words = [
        ROOT / "examples" / "prepare_harm_prompts.py", "--advbench", "adv.csv", "--xstest", "xstest.csv",
        "--harmbench", "harmbench.csv", "--malicious", "malicious.txt", "--benign", "benign.json",
        "--template", r"User: {}\nAssistant:",
    ]  # fmt: skip
    run(*words, "--output_dir", "alone", cwd=tmp_path)
    run(*words, "--situations", "--output_dir", "situated", cwd=tmp_path)
    found, situated = (
        {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in (tmp_path / folder).glob("*.jsonl")
        }
        for folder in ("alone", "situated")
    )
    assert situated["train"][: len(found["train"])] == found["train"]
    assert situated["test"] == found["test"] and situated["dev"] == found["dev"]
    for name in ("train", "safe_train"):
        alone = situated[name][: 2 * len(situated[name]) // 3]
        assert not any(row["prompt"].count("User: ") > 1 for row in alone)
        for row in situated[name][len(alone) :]:
            assert row["prompt"].count("User: ") == row["prompt"].count("Assistant:")
            assert row["prompt"].endswith("\nAssistant:") and row not in alone
    assert any(row["prompt"].count("User: ") > 1 for row in situated["safe_train"])
    texts = {
        name: {row["prompt"].removeprefix("User: ").removesuffix("\nAssistant:") for row in rows}
        for name, rows in found.items()
    }
    labels = dict(rows)
    xstest = {name: [labels[text] for text in texts[name] if text in labels] for name in texts}
    for name in ("train", "dev", "test"):
        assert set(xstest[name]) == {"unsafe"} and set(xstest[f"safe_{name}"]) == {"safe"}, "XSTest's own label decides"
    assert not texts["train"] & texts["dev"] and not (texts["train"] | texts["dev"]) & texts["test"]
    assert {row["category"] for row in found["dev"]} == {"AdvBench", "XSTest", "MaliciousInstruct"}
    assert {row["category"] for row in found["test"]} == {"AdvBench", "XSTest", "HarmBench"}
    assert "Rob a harbour" in texts["test"] and "Rob a poem" not in texts["test"]
    for number in range(40):
        forms = {text.rstrip("?.") for text in texts["train"] if text.rstrip("?.").endswith(f"break {number}")}
        assert not forms or (len(forms) == 2 and sum(form.startswith("How do I") for form in forms) == 1)
        forms = {text for text in texts["train"] if text.rstrip("?.").endswith(f"rob {number}")}
        assert not forms or sorted(text.endswith("?") for text in forms) == [False, True]
    names = [texts[name] for name in ("safe_train", "benign_dev", "benign_test")]
    assert all(any("fish" in text for text in each) for each in names)
    assert not names[0] & names[1] and not (names[0] | names[1]) & names[2]


def test_quickstart_shows_a_rude_base_and_a_kind_patch(tmp_path):
    lines = run(ROOT / "examples" / "quickstart.py", cwd=tmp_path).splitlines()
    assert [line.split(":")[0] for line in lines] == ["base", "patched"]
    rude, kind = (LabInsultScorer().score([line])[0] for line in lines)
    assert (rude, kind) == (1.0, 0.0)


def test_compose_ships_what_it_stacked(tmp_path):
    texts = [line[25:] for line in run(ROOT / "examples" / "compose.py", cwd=tmp_path).splitlines()]
    assert len(texts) == 5 and texts[4] == texts[2]
    assert "composed_from" in (tmp_path / "both" / "policy_patch_config.json").read_text()


def test_evaluate_your_own_risk(tmp_path):
    small = ["--num_prompts", 8, "--sft_steps", 25, "--dpo_steps", 2]
    out = run(ROOT / "examples" / "evaluate_your_own_risk.py", *small, cwd=tmp_path)
    before, after = map(int, re.fullmatch(r".*: (\d+)% of the base's, (\d+)% with.*", out.splitlines()[-1]).groups())
    assert before > 20 and after < before
    assert (tmp_path / "secrecy-patch" / "evaluation.png").is_file()


def test_publish_and_pull_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    out = run(ROOT / "examples" / "publish_and_pull.py", "acme/mine", cwd=tmp_path)
    assert "versions: 1.1.0, 1.0.0" in out
    assert out.splitlines()[-2:] == ["serving: 1.1.0", "rolled back to: 1.0.0"]


def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert "%pip" in code[0]
    script = "\n".join(code[1:]).replace("from IPython.display import Markdown\n", "Markdown = print\n")
    (tmp_path / "notebook.py").write_text(
        script.replace(")[:120]", ")[:24]").replace("Markdown(report", "print(report")
    )
    out = run(tmp_path / "notebook.py", cwd=tmp_path)
    assert "patched:" in out and "| patch |" in out


def test_the_notebook_for_a_real_base_runs_on_the_miniatures_by_its_switch(tmp_path):
    """As a reader's browser runs it, but for the installation, with `POLICY_PATCH_NOTEBOOK=lab`."""
    notebook = json.loads((ROOT / "examples" / "policy_patch_colab.ipynb").read_text())
    assert notebook["nbformat"] == 4 and notebook["metadata"]["accelerator"] == "GPU"
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"]) and code[0].startswith("%pip install")
    shown = "class Image:\n    def __init__(self, name):\n        print(name, len(open(name, 'rb').read()) > 1000)\n"
    script = "\n".join(code[1:]).replace("from IPython.display import Image, Markdown\n", f"Markdown = print\n{shown}")
    (tmp_path / "notebook.py").write_text(script)
    out = run(tmp_path / "notebook.py", cwd=tmp_path, POLICY_PATCH_NOTEBOOK="lab")
    assert "| untrained patch |" in out and "evaluation.png True" in out and "active: default 0.1.0" in out
    base, patched = (line.partition(": ")[2].strip() for line in out.splitlines()[-2:])
    assert base != patched
    texts = "".join((tmp_path / f"{name}.jsonl").read_text() for name in ("train", "test")).splitlines()
    assert len(set(texts)) == len(texts) == 30


def test_many_patches(tmp_path):
    out = run(ROOT / "examples" / "many_patches.py", cwd=tmp_path)
    texts = dict(line.split("  ", 1) for line in out.splitlines())
    assert list(texts) == ["__base__", "toxicity", "gender_bias", "harmfulness", "gender_bias + toxicity"]
    assert texts["__base__"] not in (texts["toxicity"], texts["gender_bias + toxicity"])


@pytest.mark.parametrize("way", ["--patches", "--lock"])
def test_serve_answers_behind_the_patch(tmp_path, way):
    pytest.importorskip("fastapi")
    from policy_patch import PolicyPatchConfig, get_policy_patch_model
    from policy_patch.lab import LAB_INIT_TEXT, LAB_MODELS_PATH, load_lab_base, load_lab_tokenizer

    model = get_policy_patch_model(load_lab_base(), PolicyPatchConfig(init_text=LAB_INIT_TEXT), load_lab_tokenizer())
    model.eval().save_pretrained(tmp_path / "patch")
    tokenizer = load_lab_tokenizer()
    inputs = tokenizer("You are", return_tensors="pt")
    expected, plain = (
        tokenizer.decode(each.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :])
        for each in (model, model.get_base_model())
    )
    assert expected != plain
    base = str(LAB_MODELS_PATH / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--port", port, "--patches", tmp_path / "patch"]
    if way == "--lock":
        from policy_patch.release import lock_stack, write_lock

        write_lock(lock_stack([str(tmp_path / "patch")], "lab:base"), tmp_path / "policy-patch.lock", replaces=None)
        words = ["--port", port, "--lock", tmp_path / "policy-patch.lock"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "serve.py"), *map(str, words)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert any("Serving" in line for line in server.stdout)
        asked = {"model": base, "prompt": "You are", "max_tokens": 8, "temperature": 0}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        for wait in (0.1, 0.3, 1, 3, 10):  # it says so just before it listens
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    answer, headers = json.loads(response.read()), response.headers
                break
            except urllib.error.URLError:
                time.sleep(wait)
        assert answer["choices"][0]["text"] == expected
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60) as response:
            [listed] = json.loads(response.read())["data"]
        [facts] = answer["policy_patch"]
        assert (facts["name"], facts["version"], facts["commit"]) == ("patch", "0.1.0", None)
        assert headers["X-Policy-Patch"] == f"patch@v0.1.0 sha256={model.patch_facts[0]['sha256']}"
        base_facts = {"id": "lab:base", "commit": None}
        assert answer["policy_patch_base"] == base_facts and headers["X-Policy-Patch-Base"] == "lab:base"
        assert listed["id"] == base
        assert (listed["policy_patch"], listed["policy_patch_base"]) == ([facts], base_facts)
    finally:
        server.kill()
        server.communicate()


def first_of_four_free_ports():
    """Below the ports that the system gives to whoever asks for any, which other tests do at the same time."""
    for port in range(20_000 + 4 * (os.getpid() % 2_000), 32_000, 4):
        with ExitStack() as open_:
            try:
                for one in range(port, port + 4):
                    open_.enter_context(socket.create_server(("127.0.0.1", one)))
            except OSError:
                continue
            return port
    raise AssertionError("no four ports in a row are free")


def test_the_runbook_ends_with_every_answer_from_the_right_version(tmp_path):
    pytest.importorskip("model_signing")
    port = first_of_four_free_ports()
    out = run(ROOT / "examples" / "runbook.py", "--output_dir", "new", "--port", port, cwd=tmp_path)
    assert ", 0 failures; versions: tox@v1.0.0 -> tox@v1.1.0 -> tox@v1.0.0 -> tox@v1.1.1" in out.splitlines()[-1]
    steps = [line for line in out.splitlines() if line.startswith("## ")]
    assert len(steps) == 12 and "rollback" in steps[7]
    assert out.count("[exit code 1]") == 4, "the audits of the base and of 1.1.0, the gate of 1.1.0, the alarm"
