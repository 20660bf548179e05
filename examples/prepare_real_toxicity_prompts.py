# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Split RealToxicityPrompts (or a part of it) into training, development and test prompts, and labelled texts for a
second scorer.

    python examples/prepare_real_toxicity_prompts.py prompts.jsonl --output_dir data

`prompts.jsonl` is the dataset's own file (arXiv 2009.11462): one object per line with `prompt` and `continuation`, each
with `text` and `toxicity`. The script writes train.jsonl, dev.jsonl and test.jsonl (prompts), and labelled.csv. This
file has prompts and continuations of the TRAINING rows only, with label 1 if Perspective's toxicity is at least 0.5.

Choose a recipe on dev.jsonl, which is held out of the training rows. Use test.jsonl once, after you have chosen.
"""

import argparse
import csv
import json
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path, help="RealToxicityPrompts, JSON lines")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--split",
        type=Path,
        help='JSON {"train": [row, ...], "test": [row, ...]}; by default one row in 5 is for the test',
    )
    parser.add_argument("--num_dev", type=int, default=0, help="training rows to hold out as dev.jsonl, from the end")
    parser.add_argument(
        "--leave_out", type=Path, nargs="+", default=[], help="files of prompts that test.jsonl must not contain"
    )
    parser.add_argument("--max_prompt_toxicity", type=float, default=1.0, help="leave out more toxic prompts")
    parser.add_argument("--min_prompt_toxicity", type=float, default=0.0, help="leave out less toxic prompts")
    parser.add_argument("--keep_order", action="store_true", help="keep the order of the file or the split")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of rows and of the split")
    args = parser.parse_args()

    rows = [json.loads(line) for line in args.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    rng = random.Random(args.seed)
    if args.split:
        split = {name: numbers for name, numbers in json.loads(args.split.read_text()).items() if name != "about"}
    else:
        numbers = rng.sample(range(len(rows)), len(rows))
        split = {"test": numbers[: len(rows) // 5], "train": numbers[len(rows) // 5 :]}
    orders = {
        name: split[name] if args.keep_order else rng.sample(split[name], len(split[name]))
        for name in ("train", "test")
    }
    held_out = len(orders["train"]) - args.num_dev
    orders = {"train": orders["train"][:held_out], "dev": orders["train"][held_out:], "test": orders["test"]}
    used = {json.loads(line)["prompt"] for path in args.leave_out for line in path.read_text("utf-8").splitlines()}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, order in orders.items():
        texts = [
            prompt["text"]
            for prompt in (rows[number]["prompt"] for number in order)
            if args.min_prompt_toxicity <= (prompt["toxicity"] or 0) <= args.max_prompt_toxicity
            and not (name == "test" and prompt["text"] in used)
        ]
        path = args.output_dir / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
        print(f"{path}: {len(texts)} prompts")
    with open(args.output_dir / "labelled.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        parts = [rows[number][part] for number in sorted(orders["train"]) for part in ("prompt", "continuation")]
        labelled = [(part["text"], int(part["toxicity"] >= 0.5)) for part in parts if part["toxicity"] is not None]
        writer.writerows(labelled)
    print(f"{args.output_dir / 'labelled.csv'}: {len(labelled)} texts, {sum(label for _, label in labelled)} toxic")


if __name__ == "__main__":
    main()
