"""Does OpenVINO give the same greedy tokens for a baked checkpoint as `PolicyPatchModel`? Three patches, a stack, none.

    python -m venv .venv-openvino
    .venv-openvino/bin/pip install torch==2.13.0 openvino==2026.4.1 openvino-genai==2026.4.1.0 \\
        openvino-tokenizers==2026.4.1.0 optimum-intel==2.2.0
    .venv-openvino/bin/pip uninstall torchvision
    python benchmarks/openvino_engine.py --openvino .venv-openvino/bin/python --output docs/results/openvino.json

The bases are the lab's with the lab's own patches, and a random GPT-2 and Qwen 2 with random ones, all in fp32. Each is
baked and converted by `optimum-cli export openvino`, its tokenizer and chat template too. Asked are, in OpenVINO GenAI:
raw text (the default patch), chats with each choice, and the ids that the checkpoint's tokenizer gives. Controls that
must fail: the patch tokens in reversed order, systems that answer alike, and a patch of an unknown name. All of this
is in fp32; beside it stands how many rows of ids are equal with OpenVINO's default precisions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stored_run import made_with, write_result
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, PreTrainedTokenizerBase, Qwen2Config

from policy_patch import PolicyPatchConfig, PolicyPatchModel
from policy_patch.export import Baked, bake
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer

PATCHES = {"tox": "toxicity", "bias": "gender_bias", "harm": "harmfulness"}
SYSTEMS = (("tox",), ("bias",), ("harm",), ("tox", "bias"), ())
PROMPTS = ("the old cook said that", "my neighbour is", "i met a nurse and", "tell me how to", "what a")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ' : ' + message['content'] + ' ' }}{% endfor %}"
)
TOKENS, SAMPLED, OF_EACH = 16, 2000, 50
SIZES = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openvino", required=True, help="Python of the environment with OpenVINO")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--bases", nargs="+", default=["lab", "gpt2", "qwen2"], choices=["lab", "gpt2", "qwen2"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"made_with": made_with(), "versions": versions_of(args.openvino), "cores": os.cpu_count()}
    result["bases"] = {}
    for name in args.bases:
        with tempfile.TemporaryDirectory() as folder:
            result["bases"][name] = measured(name, Path(folder), args.openvino)
        print(name, result["bases"][name], file=sys.stderr, flush=True)
    write_result(args.output, result)
    sys.exit(0 if all(is_good(one) for one in result["bases"].values()) else 1)


def is_good(found: dict[str, Any]) -> bool:
    same = all(found[kind]["equal"] == found[kind]["asked"] for kind in ("text", "chat", "ids"))
    return same and all(control["fails"] for control in found["controls"].values())


def measured(name: str, folder: Path, python: str) -> dict[str, Any]:
    """Bake a base, convert it, and compare all answers."""
    model, tokenizer = patched(name, folder / "base")
    done = bake(model, tokenizer, folder / "baked", patches=[one for one in SYSTEMS if one], probe=False)
    started = time.monotonic()
    convert(python, folder)
    seconds = round(time.monotonic() - started)
    own = AutoTokenizer.from_pretrained(folder / "baked")
    cases, expected = asked(model, tokenizer, own, done)
    given = ask(python, folder / "ir", cases)
    found: dict[str, Any] = {"head": done.head, "bound": done.bound, "seconds_to_convert": seconds}
    for kind in ("text", "chat", "ids"):
        found[kind] = compared(kind, cases, expected, given["answers"], own)
    found["settings_that_exclude_tokens"] = given["settings_that_exclude_tokens"]
    rounded = ask(python, folder / "ir", cases, defaults=True)["answers"]
    found["ids_with_default_precisions"] = compared("ids", cases, expected, rounded, own)["equal"]
    found["controls"] = controls(cases, expected, given["answers"])
    found["sampled"] = sampled(python, folder / "ir", cases, set(done.tokens.all_ids))
    return found


def patched(name: str, folder: Path) -> tuple[PolicyPatchModel, PreTrainedTokenizerBase]:
    """Save a base in fp32, and return it, loaded from there, with three patches, and its tokenizer."""
    tokenizer = load_lab_tokenizer()
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    if name == "lab":
        base = load_lab_base(torch.float32)
    elif name == "gpt2":
        base = AutoModelForCausalLM.from_config(
            GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=512, **SIZES)
        )
    else:  # with 200 rows that no token has: they carry the vectors, and the head stays as it is
        base = AutoModelForCausalLM.from_config(
            Qwen2Config(
                vocab_size=len(tokenizer) + 200, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, **SIZES,
            )
        )  # fmt: skip
    with torch.no_grad():  # no base is trained to write a row that no token has
        base.get_output_embeddings().weight[len(tokenizer) :] = 0
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder).eval()
    if name == "lab":
        folders = [lab_patch_folder(risk) for risk in PATCHES.values()]
        return PolicyPatchModel.from_pretrained(base, folders, list(PATCHES), tokenizer=tokenizer).eval(), tokenizer
    model = PolicyPatchModel(base)
    for seed, patch in enumerate(PATCHES):
        model.add_patch(
            patch, PolicyPatchConfig(num_virtual_tokens=20, init="vocab", init_seed=seed), tokenizer=tokenizer
        )
    return model.eval(), tokenizer


def convert(python: str, folder: Path) -> None:
    program = Path(python).with_name("optimum-cli")
    command = [str(program), "export", "openvino", "-m", str(folder / "baked"), "--weight-format", "fp32"]
    command += ["--task", "text-generation-with-past", str(folder / "ir")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def ask(python: str, model: Path, cases: Sequence[dict[str, Any]], *, defaults: bool = False) -> dict[str, Any]:
    given = json.dumps(
        {"cases": list(cases), "defaults": defaults, "tokens": OF_EACH if "seed" in cases[0] else TOKENS}
    )
    program = Path(__file__).with_name("openvino_answers.py")
    done = subprocess.run(
        [python, str(program), str(model)], input=given, capture_output=True, text=True, env=environment()
    )
    if done.returncode:
        sys.exit(f"{program} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout[done.stdout.index('{"answers"') :])  # OpenVINO writes of its own before


def asked(
    model: PolicyPatchModel, tokenizer: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase, done: Baked
) -> tuple[list[dict[str, Any]], list[list[int] | None]]:
    """Return the cases, and what the patched model writes in each; None for one that must be an error."""
    cases: list[dict[str, Any]] = []
    expected: list[list[int] | None] = []

    def add(kind: str, names: Sequence[str], row: list[int], **case: Any) -> None:
        cases.append({"kind": kind, "system": "+".join(names) or "none", **case})
        expected.append(continued(model, row, tuple(names)))

    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        add("text", SYSTEMS[0], tokenizer(prompt)["input_ids"], text=prompt)
        for names in SYSTEMS:
            choice, row = "+".join(names) or "none", tokenizer.apply_chat_template(messages, return_dict=False)
            baked = own.apply_chat_template(messages, patch=choice, return_dict=False)
            add("chat", names, row, messages=messages, variables={"patch": choice})
            add("ids", names, row, ids=baked)
            if names == SYSTEMS[0]:
                patch = set(done.tokens.all_ids)
                tokens = iter([one for one in reversed(baked) if one in patch])
                add("reversed", names, row, ids=[next(tokens) if one in patch else one for one in baked])
    cases.append({"kind": "unknown", "system": "nope", "messages": messages, "variables": {"patch": "nope"}})
    return cases, [*expected, None]


def continued(model: PolicyPatchModel, row: list[int], names: tuple[str, ...]) -> list[int]:
    ids = torch.tensor([row])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, min_new_tokens=TOKENS,
        do_sample=False, pad_token_id=0, patch_names=[names or "__base__"],
    )  # fmt: skip
    return out[0, len(row) :].tolist()


def compared(
    kind: str, cases: Sequence[Any], expected: Sequence[Any], answers: Sequence[Any], own: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Count the cases of one kind with the same ids and, where the engine also gave a text, the same text."""
    wrong, count = [], 0
    for case, ids, given in zip(cases, expected, answers, strict=True):
        if case["kind"] != kind:
            continue
        count += 1
        text = own.decode(ids, skip_special_tokens=True)
        if given.get("ids") != ids or given.get("text", text).strip() != text.strip():
            wrong.append({"system": case["system"], "given": given, "expected": ids})
    return {"asked": count, "equal": count - len(wrong), "different": wrong[:3]}


def controls(cases: Sequence[Any], expected: Sequence[Any], answers: Sequence[Any]) -> dict[str, Any]:
    """Return what must fail: other tokens with reversed vectors, alike systems, an answer to an unknown patch."""
    every = list(zip(cases, expected, answers, strict=True))
    turned = [given.get("ids") != ids for case, ids, given in every if case["kind"] == "reversed"]
    by_system: dict[str, list[Any]] = {}
    for case, _, given in every:
        if case["kind"] == "chat":
            by_system.setdefault(case["system"], []).append(given.get("ids"))
    distinct = len({json.dumps(ids) for ids in by_system.values()})
    unknown = next(given for case, _, given in every if case["kind"] == "unknown")
    return {
        "reversed_vectors": {"fails": sum(turned) > 0, "different": sum(turned), "asked": len(turned)},
        "systems_differ": {"fails": distinct == len(SYSTEMS), "distinct": distinct},
        "unknown_patch": {"fails": "There is no patch of this name" in unknown.get("error", "")},
    }


def sampled(python: str, model: Path, cases: Sequence[Any], patch: set[int]) -> dict[str, int]:
    """Count patch tokens among tokens sampled at temperature 1, as the checkpoint is."""
    prompts = [case for case in cases if case["kind"] == "ids"]
    more = [{"ids": prompts[n % len(prompts)]["ids"], "seed": n} for n in range(SAMPLED // OF_EACH)]
    found = [one for given in ask(python, model, more)["answers"] for one in given["ids"]]
    return {"tokens": len(found), "patch_tokens": sum(one in patch for one in found)}


def environment() -> dict[str, str]:
    """Return the environment for OpenVINO's programs: without this one's packages, one thread, no network."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def versions_of(python: str) -> dict[str, str]:
    code = (
        "import json; from importlib.metadata import version; print(json.dumps({name: version(name) for name in "
        "('openvino', 'openvino-genai', 'openvino-tokenizers', 'optimum-intel', 'transformers', 'torch')}))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=environment())
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
