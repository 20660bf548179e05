"""Does an evaluation of a served patch lose or double anything when a rank of the engine is killed while it runs?

    python benchmarks/vllm_killed_rank.py --vllm .venv-vllm/bin/python --output docs/results/vllm_killed_rank.json

Two engines serve the lab's base behind `policy-patch gateway`, the first with two ranks (`--data-parallel-size 2`).
`policy-patch evaluate --endpoint` measures the lab's toxicity patch through it. After a fifth of the served answers one
rank is killed; vLLM 0.32 then ends the engine that it belongs to. The same evaluation without a kill, on the engine
that is left, is what it is compared with: each request has a seed, so the answers are the same texts, but for rounding
in batches of other sizes. The environment of vLLM is made as `vllm_engine.py` says.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import torch
from stored_run import made_with, write_result
from vllm_engine import TEMPLATE, engine, gateway, version_of

from policy_patch.export import export_prompt_embeds
from policy_patch.lab import lab_patch_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python of the environment with vLLM")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for a server to come up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, ExitStack() as open_:
        folder = Path(name)
        template = folder / "own.jinja"
        template.write_text(TEMPLATE)
        specs = [f"tox={lab_patch_folder('toxicity')}"]
        exported = export_prompt_embeds(
            specs, folder / "out", base="lab:base", dtype="float32", chat_template=str(template), probe=False
        )
        chat = ["--chat-template", str(exported.folder / "chat_template.jinja")]
        chat += ["--chat-template-content-format", "string"]
        first, victim = open_.enter_context(engine(args, [*chat, "--data-parallel-size", "2"]))
        second, _ = open_.enter_context(engine(args, chat))
        url = open_.enter_context(gateway([first, second], specs, template, name))
        with_kill = evaluated(args, url, folder / "with_kill", victim)
        without = evaluated(args, url, folder / "without")
        answers = [served_answers(folder / each) for each in ("with_kill", "without")]
    lengths = {len(texts) for texts in answers[0].values()}
    same = sum(one == other for key in answers[1] for one, other in zip(answers[0].get(key, ()), answers[1][key]))
    result = {
        "settings": {"prompts": args.prompts, "samples": args.samples},
        "made_with": made_with(),
        "vllm": version_of(args.vllm),
        "cores": os.cpu_count(),
        "with_kill": with_kill,
        "without_kill": without,
        "prompts_answered": len(answers[0]),
        "answers_of_a_prompt": sorted(lengths),
        "same_texts": same,
        "asked": args.prompts * args.samples,
    }
    write_result(args.output, result)
    whole = set(answers[0]) == set(answers[1]) and len(answers[0]) == args.prompts and lengths == {args.samples}
    sys.exit(0 if whole and with_kill["killed_after"] is not None else 1)


def evaluated(
    args: argparse.Namespace, url: str, folder: Path, victim: subprocess.Popen | None = None
) -> dict[str, Any]:
    """Run the evaluation, killing a rank of an engine if one is given, and return its served figures."""
    command = [sys.executable, "-m", "policy_patch.cli", "evaluate", str(lab_patch_folder("toxicity"))]
    command += ["--base", "lab:base", "--prompts", "lab:toxicity/test", "--scorers", "lab-insults"]
    command += ["--num_prompts", str(args.prompts), "--num_samples", str(args.samples), "--max_new_tokens", "16"]
    command += ["--endpoint", f"openai:base+tox@{url}", "--output_dir", str(folder), "--perplexity_model", "lab:base"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    words: list[str] = []
    reader = threading.Thread(target=lambda: words.extend(process.stderr))
    reader.start()
    killed_after = None
    while process.poll() is None:
        time.sleep(0.02)
        arrived = sum(len(texts) for texts in served_answers(folder).values())
        if victim is not None and killed_after is None and arrived >= args.prompts * args.samples // 5:
            ranks = [
                one
                for one in psutil.Process(victim.pid).children(recursive=True)
                if "EngineCore_DP" in " ".join(one.cmdline())
            ]
            ranks[-1].send_signal(signal.SIGKILL)
            killed_after = arrived
    reader.join()
    if process.returncode:
        sys.exit(f"The evaluation failed:\n{''.join(words)[-3000:]}")
    report = json.loads((folder / "evaluation.json").read_text())
    return {"killed_after": killed_after, "figures": figures(report)}


def served_answers(folder: Path) -> dict[str, list[str]]:
    """Return the answers of the served system by prompt, as far as they are stored."""
    found: dict[str, list[str]] = {}
    folders = [each for each in folder.glob("evaluation-answers/*") if not each.name.startswith(("base-", "patch-"))]
    files = [file for each in folders for file in (each / "prompts").glob("*-*.jsonl")]
    for line in [line for file in files for line in file.read_text().splitlines(keepends=True)]:
        if line.endswith("\n"):  # else it is being written
            row = json.loads(line)
            found.setdefault(row["prompt"], []).extend(one["text"] for one in row["answers"])
    return found


def figures(report: dict[str, Any]) -> dict[str, Any]:
    served = report["systems"]["served"]
    return {name: metric["value"] for name, metric in served["metrics"]["lab-insults"].items()}


if __name__ == "__main__":
    main()
