"""Does `policy-patch probe` tell what a real vLLM serves? Every case is asked over HTTP.

    python benchmarks/vllm_probe.py --vllm .venv-vllm/bin/python --output docs/results/vllm_probe.json

Served are the lab's patches: by an unmodified vLLM behind `policy-patch gateway`, where a request names its patches;
and from a baked checkpoint, by plain completions (its default) and by a choice in chat. Whatever is served is asked for
each of the patches in turn. Right is `active` for the patch that is there, `absent` where there is none, and `another`
for the rest. Then two replicas are asked at once. One is stale: it serves another version of the patch, with noise in
its vectors, whose probe is given as `others`. What is said without it is noted, too, and does not count: of two
versions that are near each other the probe may say `mixed`, which is no `active` either. The environment of vLLM is
made as `vllm_engine.py` says.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from stored_run import made_with, write_result
from vllm_baked import served
from vllm_engine import PATCHES, TEMPLATE, engine, gateway, version_of

from policy_patch import PolicyPatchModel
from policy_patch.export import bake, export_prompt_embeds
from policy_patch.export.probe_alone import export_probe
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_tokenizer
from policy_patch.serving import probe

NOISE = 0.05  # standard deviation that is added to the vectors of the stale version
REPLICAS = ("current", "stale")
Case = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python of the environment with vLLM")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for a server to come up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "own.jinja"
        template.write_text(TEMPLATE)
        specs = [f"{one}={lab_patch_folder(risk)}" for one, risk in PATCHES.items()]
        cases += behind_the_gateway(args, folder, specs, template)
        cases += baked(args, folder)
    right = sum(case["verdict"] == case["right"] for case in cases)
    result = {"made_with": made_with(), "vllm": version_of(args.vllm), "asked": len(cases), "right": right}
    write_result(args.output, {**result, "cases": cases})
    sys.exit(0 if right == len(cases) else 1)


def behind_the_gateway(args: argparse.Namespace, folder: Path, specs: list[str], template: Path) -> list[Case]:
    """Return the cases of an unmodified vLLM, and of a second gateway with a stale version."""
    options = {"base": "lab:base", "dtype": "float32", "chat_template": str(template)}
    exported = export_prompt_embeds(specs, folder / "out", **options)
    probes = export_probe(specs, folder / "probe", base="lab:base", dtype="float32").folder
    stale = [f"tox={stale_version(folder / 'stale')}", *specs[1:]]
    other = export_probe(stale[:1], folder / "other", base="lab:base", dtype="float32").folder
    chat = ["--chat-template", str(exported.folder / "chat_template.jinja"), "--chat-template-content-format", "string"]
    found, name = [], os.fspath(folder)
    with (
        engine(args, chat) as (url, _),
        gateway([url], specs, template, name) as now,
        gateway([url], stale, template, name) as before,
    ):
        for there in (*PATCHES, ""):
            for expected in PATCHES:
                report = probe(now, probes, model=f"base+{there}".rstrip("+"), system=expected)
                found.append(case("gateway, completions", there, expected, report.verdict))
        both, alone = (
            probe(now, probes, model="base+tox", system="tox", replicas=[before], others=others).addresses.values()
            for others in ([other], [])
        )
        for replica, right, given, without in zip(REPLICAS, ("active", "another"), both, alone, strict=True):
            one = {"served": f"gateway, {replica} replica", "expected": "tox", "verdict": given.verdict}
            found.append({**one, "right": right, "verdict_without_others": without.verdict})
    return found


def baked(args: argparse.Namespace, folder: Path) -> list[Case]:
    """Return the cases of a baked checkpoint: its default by completions, and each choice by chat."""
    tokenizer = load_lab_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model = PolicyPatchModel.from_pretrained(
        load_lab_base(torch.float32), [lab_patch_folder(risk) for risk in PATCHES.values()], list(PATCHES),
        tokenizer=tokenizer,
    )  # fmt: skip
    checkpoint = folder / "baked"
    bake(model, tokenizer, checkpoint, patches=list(PATCHES), default="tox")
    found = []
    with served(args, checkpoint, ()) as (url, _):
        for expected in PATCHES:
            found.append(case("baked, completions", "tox", expected, probe(url, checkpoint, system=expected).verdict))
        for there in (*PATCHES, "none"):
            choice = {"chat_template_kwargs": {"patch": there}}
            for expected in PATCHES:
                report = probe(url, checkpoint, system=expected, chat=True, extra_body=choice)
                found.append(case("baked, chat", there.replace("none", ""), expected, report.verdict))
    return found


def case(how: str, there: str, expected: str, verdict: str) -> Case:
    right = "absent" if not there else "active" if there == expected else "another"
    return {"served": f"{how}: {there or 'no patch'}", "expected": expected, "verdict": verdict, "right": right}


def stale_version(folder: Path) -> Path:
    """Write another version of the toxicity patch, with noise in its vectors."""
    torch.manual_seed(0)
    model = PolicyPatchModel.from_pretrained(
        load_lab_base(torch.float32), lab_patch_folder("toxicity"), "tox", tokenizer=load_lab_tokenizer()
    )
    with torch.no_grad():
        model.patches["tox"].add_(NOISE * torch.randn_like(model.patches["tox"]))
    model.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
