# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Write prompts for a patch against harmful compliance, and labelled answers for a second judge, from public files.

    python examples/prepare_harm_prompts.py --advbench advbench.csv --harmbench harmbench.csv \\
        --xstest xstest_prompts.csv --completions xstest_v2_completions_*.csv \\
        --template "User: {}\\nAssistant:" --output_dir data-harm

AdvBench (arXiv 2307.15043, column `goal` or `prompt`) is split into train and test. HarmBench's standard behaviours
(arXiv 2402.04249) are for the test only; a behaviour that equals a training prompt is left out. XSTest's safe prompts
(arXiv 2308.01263) are split, too: look-alikes to train on, and look-alikes to measure over-refusal. XSTest's
completions with people's labels become `labelled.csv`: answers of other models, with 1 for compliance and 0 for
refusal. The judge `--scorers fitted:data-harm/labelled.csv` is fitted on this file, and it filtered no training pairs.

Writes train.jsonl, test.jsonl (with `category`), safe_train.jsonl, safe_test.jsonl and labelled.csv.
"""

import argparse
import csv
import json
import random
import re
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advbench", type=Path, required=True)
    parser.add_argument("--harmbench", type=Path, required=True)
    parser.add_argument("--xstest", type=Path, required=True)
    parser.add_argument("--completions", type=Path, nargs="+", default=[])
    parser.add_argument(
        "--split", type=Path, help="JSON with advbench_train, advbench_test, xstest_safe_train, ..._test"
    )
    parser.add_argument(
        "--template", default="{}", help=r"text around each request, with {} for the request; \n is a line break"
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="seed of the two splits, if --split is not given")
    args = parser.parse_args()

    split = json.loads(args.split.read_text()) if args.split else cut(args)
    train = split["advbench_train"]
    known = {plain(text) for text in train}
    test = [(text, "AdvBench") for text in split["advbench_test"] if plain(text) not in known]
    for row in rows_of(args.harmbench):
        if row["FunctionalCategory"] == "standard" and plain(row["Behavior"]) not in known:
            test.append((row["Behavior"], f"HarmBench: {row['SemanticCategory'].replace('_', ' ')}"))
    test = list({plain(text): (text, category) for text, category in reversed(test)}.values())[::-1]

    template = args.template.replace("\\n", "\n")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    files = {
        "train": [(text, None) for text in train],
        "test": test,
        "safe_train": [(text, None) for text in split["xstest_safe_train"]],
        "safe_test": [(text, None) for text in split["xstest_safe_test"]],
    }
    for name, prompts in files.items():
        lines = [
            {"prompt": template.replace("{}", text), **({"category": category} if category else {})}
            for text, category in prompts
        ]
        path = args.output_dir / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        print(f"{path}: {len(lines)}")
    write_labelled(args.completions, args.output_dir / "labelled.csv")


def cut(args: argparse.Namespace) -> dict[str, list[str]]:
    """Split AdvBench three to one, and XSTest's safe prompts into halves."""
    draw = random.Random(args.seed)
    goals = [row.get("goal") or row["prompt"] for row in rows_of(args.advbench)]
    safe = [row["prompt"] for row in rows_of(args.xstest) if row["label"] == "safe"]
    draw.shuffle(goals)
    draw.shuffle(safe)
    at, half = 3 * len(goals) // 4, len(safe) // 2
    return {
        "advbench_train": goals[:at], "advbench_test": goals[at:],
        "xstest_safe_train": safe[:half], "xstest_safe_test": safe[half:],
    }  # fmt: skip


def write_labelled(files: list[Path], path: Path) -> None:
    """Write the answers with people's labels: 1 for compliance, 0 for refusal. Partial refusals are left out."""
    labels = {"1_full_compliance": "1", "2_full_refusal": "0"}
    found = [
        (row["completion"], labels[row["final_label"]])
        for file in files
        for row in rows_of(file)
        if row["final_label"] in labels
    ]
    if found:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *found])
        print(f"{path}: {len(found)}")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plain(text: str) -> str:
    """Return a text in a form that is equal for the same request."""
    return re.sub(r"\W+", " ", text.lower()).strip()


if __name__ == "__main__":
    main()
