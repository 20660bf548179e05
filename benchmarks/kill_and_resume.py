"""Kill -9 a two-stage training at random moments, run the same command again: are the vectors equal, bit for bit?

    python benchmarks/kill_and_resume.py --trials 20

The training is that of the lab's base with pairs of the lab: two short stages, a checkpoint at every fourth step. One
run is left alone. Each trial kills its own run in the first stage, between the stages, or in the second one, in turn,
at a moment drawn evenly from that part of the time; then it runs the same command until it ends, and compares.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

STEPS = 24
PARTS = ("sft", "between", "dpo")


def main() -> None:
    args = parse()
    if args.train_in:
        train(args.train_in, args.pairs)
        return
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_pairs(root / "pairs.jsonl")
        timeline = run(root / "whole", root / "pairs.jsonl")
        expected = digest(root / "whole")
        parts = {
            "sft": ("sft 1", timeline[f"sft {STEPS}"] - timeline["sft 1"]),
            "between": (f"sft {STEPS}", timeline["dpo 1"] - timeline[f"sft {STEPS}"]),
            "dpo": ("dpo 1", timeline["done"] - timeline["dpo 1"]),
        }
        equal = 0
        for number in range(args.trials):
            part = PARTS[number % len(PARTS)]
            after, length = parts[part]
            delay = draw.uniform(0, length)
            place = root / f"trial-{number}"
            killed = run(place, root / "pairs.jsonl", kill=(after, delay))
            went_on = run(place, root / "pairs.jsonl")
            same = digest(place) == expected
            equal += same
            print(json.dumps({
                "trial": number, "part": part, "seconds": round(delay, 2), "last event": list(killed)[-1],
                "went on with": next(iter(went_on)), "equal": same,
            }), flush=True)  # fmt: skip
    print(f"{equal} of {args.trials} bit-equal to the run that was left alone")
    sys.exit(equal != args.trials)


def run(folder: Path, pairs: Path, kill: tuple[str, float] | None = None) -> dict[str, float]:
    """Train in a process of its own; kill it `kill[1]` seconds after the event `kill[0]`. Return when what happened."""
    command = [sys.executable, __file__, "--train_in", str(folder), "--pairs", str(pairs)]
    events: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr))
        reader.start()
        for line in process.stdout:
            events[line.strip()] = time.monotonic()
            if kill is not None and line.strip() == kill[0]:
                threading.Timer(kill[1], process.kill).start()
        process.wait()
        reader.join()
    if process.returncode not in ((0, -9) if kill else (0,)):
        raise SystemExit("".join(errors))
    return events


def digest(folder: Path) -> str:
    """Return the hash of the finished patch's tensor file."""
    return hashlib.sha256((folder / "policy_patch.safetensors").read_bytes()).hexdigest()


# In the process that is killed


def make_pairs(path: Path) -> None:
    from policy_patch.data import build_preference_pairs, save_preference_pairs
    from policy_patch.evaluation import load_scorer
    from policy_patch.lab import lab_prompts, load_lab_base, load_lab_teacher, load_lab_tokenizer

    pairs = build_preference_pairs(
        load_lab_base(), load_lab_teacher(), load_lab_tokenizer(), lab_prompts("toxicity", "train")[:48],
        scorer=load_scorer("lab-insults"), num_samples=4, max_new_tokens=16,
    )  # fmt: skip
    save_preference_pairs(pairs, path)


def train(folder: Path, pairs: Path) -> None:
    from transformers import TrainerCallback

    from policy_patch import PolicyPatchConfig, get_policy_patch_model
    from policy_patch.data import load_preference_pairs
    from policy_patch.lab import load_lab_base, load_lab_tokenizer
    from policy_patch.training import PolicyPatchTrainer, PolicyPatchTrainingConfig

    class Tell(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            print(f"{'dpo' if hasattr(args, 'beta') else 'sft'} {state.global_step}", flush=True)

    tokenizer = load_lab_tokenizer()
    config = PolicyPatchConfig(risk="toxicity", init_text="Please be kind and polite to everyone.")
    model = get_policy_patch_model(load_lab_base(), config, tokenizer)
    settings = {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 4,
        "logging_steps": 1, "disable_tqdm": True,
    }  # fmt: skip
    args = PolicyPatchTrainingConfig(output_dir=str(folder), sft=settings, dpo=settings)
    PolicyPatchTrainer(
        model, args, load_preference_pairs(pairs), processing_class=tokenizer, callbacks=[Tell()]
    ).train()
    print("done", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--train_in", type=Path, help=argparse.SUPPRESS)  # what a child process does
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
