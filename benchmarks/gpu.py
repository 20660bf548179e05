"""All that a GPU has to say, in one command of at most 10 minutes: serving, swapping, training, memory.

    python benchmarks/gpu.py --output docs/results/gpu.json
    python benchmarks/gpu.py --preset tiny --device cpu --minutes 3 --output runs/gpu.json   # does it work at all?

Needs no network: the base has the shape of Llama-2-7B in bf16 and random weights. It runs `overhead.py` (batch 1, 8 and
32: base, patch, stack of 4, PEFT's prompt, LoRA; a batch with a patch for each row; the first call behind a new patch,
which computes its prefix; peak memory of a generation) and `training.py` (steps of SFT and DPO beside PEFT + TRL, peak
memory). Each part is stored as soon as it is measured. What has no time left is named under `unfinished`; the same
command with the same versions and commit then goes on from there. A card needs about 48 GiB; with less, take
`--preset 1b`. One JSON, the tables beside it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from stored_run import made_with, refuse_others

from policy_patch.files.atomic import write_whole

HERE = Path(__file__).parent
SERVING = {
    "llama2-7b": ["--batch_sizes", "1", "8", "32", "--rounds", "5", "--new_tokens", "32"],
    "1b": ["--batch_sizes", "1", "8", "32", "--rounds", "9", "--new_tokens", "48"],
    "tiny": ["--batch_sizes", "1", "2", "--rounds", "2", "--new_tokens", "4"],
}
TRAINING = {
    "llama2-7b": ["--batch_size", "8", "--tokens", "128", "--runs", "7"],
    "1b": ["--batch_size", "8", "--tokens", "128", "--runs", "9"],
    "tiny": ["--batch_size", "2", "--tokens", "16", "--runs", "2", "--warmup", "1"],
}
SHARE_OF_SERVING = 0.55  # of the time, so that training has its turn, too


def main() -> None:
    args = parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here. `--device cpu --preset tiny` tries the script on a CPU.")
    done: dict[str, Any] = {"settings": settings(args), "parts": {}, "unfinished": []}
    if args.output.is_file():
        stored = json.loads(args.output.read_text())
        refuse_others(stored["settings"], done["settings"], args.output)
        done["parts"] = stored["parts"]
    began, seconds = time.monotonic(), 60 * args.minutes
    for part, share in (("serving", SHARE_OF_SERVING), ("training", 1.0)):
        left = share * seconds - (time.monotonic() - began)
        whole = measure(args, part, left, done)
        if not whole:
            done["unfinished"].append(part)
    store(args.output, done)
    print(markdown(done))
    if done["unfinished"]:
        sys.exit(f"Not finished in {args.minutes:g} minutes: {', '.join(done['unfinished'])}. Run it again to go on.")


def measure(args: argparse.Namespace, part: str, seconds: float, done: dict[str, Any]) -> bool:
    """Run one script, from what is stored of it, for at most `seconds`; store what it measured. What is whole stays.

    Returns:
        `bool`: True if it came to its end. It is False after a kill, and after an error, whose last words are printed.
    """
    if done["parts"].get(part, {}).get("whole"):
        return True
    script, more = {
        "serving": ("overhead.py", [*SERVING[args.preset], "--prompt_lengths", "64", "--patch_lengths", "50"]),
        "training": ("training.py", TRAINING[args.preset]),
    }[part]
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        if part in done["parts"]:
            figures.write_text(json.dumps(done["parts"][part]["figures"]))
        words = [str(HERE / script), "--device", args.device, "--preset", args.preset, *more, "--output", str(figures)]
        ended = run([sys.executable, *words], seconds)
        if figures.is_file():
            tables = figures.with_suffix(".md")
            done["parts"][part] = {
                "figures": json.loads(figures.read_text()),
                "tables": tables.read_text() if tables.is_file() else "",
                "whole": ended,
            }
            store(args.output, done)
    return ended


def run(command: list[str], seconds: float) -> bool:
    """Run a command with its output shown; end it and its children when its time is over."""
    if seconds <= 0:
        return False
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        print(f"{Path(command[1]).name} has had its {seconds:.0f} seconds.", flush=True)
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def store(path: Path, done: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(done, indent=1) + "\n").encode())
    write_whole(path.with_suffix(".md"), markdown(done).encode())


def markdown(done: dict[str, Any]) -> str:
    told = done["settings"]
    lines = [f"{told['card']}, {told['memory_gib']} GiB, {told['preset']}, commit {told['commit'][:12]}."]
    lines += [f"## {part.capitalize()}\n\n{stored['tables'].strip()}" for part, stored in done["parts"].items()]
    if done["unfinished"]:
        lines.append(f"Not finished: {', '.join(done['unfinished'])}.")
    return "\n\n".join(lines) + "\n"


def settings(args: argparse.Namespace) -> dict[str, Any]:
    card, memory = "CPU", 0
    if args.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        card, memory = found.name, round(found.total_memory / 2**30)
    return {"card": card, "memory_gib": memory, "device": args.device, "preset": args.preset, **made_with()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/results/gpu.json"), help="%(default)s")
    parser.add_argument("--preset", choices=SERVING, default="llama2-7b", help="shape of the base; %(default)s")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="%(default)s")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all of it; %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
