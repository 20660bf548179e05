"""The split files behind the results, for people who fetch the data sets themselves.

    python benchmarks/splits.py rtp val.jsonl --output split.json
    python benchmarks/splits.py harm advbench.csv xstest_prompts.csv xstest_v2_completions_gpt4.csv \\
        seed_tasks.jsonl user_oriented_predictions.jsonl roleplay-instruct.json --output split.json

The data sets are not in this repository. `docs/results/splits.json` names each of their rows that was used by the first
eight hex digits of a SHA-256: of RealToxicityPrompts the line of the file, of the others the request. This script finds
these rows, and writes what `--split` of `examples/prepare_real_toxicity_prompts.py` and
`examples/prepare_harm_prompts.py` takes. It ends with 1 if a row is missing: then the file is of another commit.
"""

import argparse
import csv
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from prepare_harm_prompts import instructions  # noqa: E402

from policy_patch.files.atomic import write_whole  # noqa: E402

SPLITS = ROOT / "docs" / "results" / "splits.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["rtp", "harm"])
    parser.add_argument("files", type=Path, nargs="+", help="the data set's own files, as docs/reproduce.md names them")
    parser.add_argument("--output", type=Path, required=True, help="file for `--split`")
    parser.add_argument("--splits", type=Path, default=SPLITS, help="names of the rows")
    args = parser.parse_args()
    names = json.loads(args.splits.read_text())[args.data]
    known = rows_of_rtp(args.files[0]) if args.data == "rtp" else rows_of_harm(args.files)
    missing = [name for part in names.values() for name in part.split() if name not in known]
    if missing:
        print(f"{len(missing)} rows of the split are not in {', '.join(map(str, args.files))}.", file=sys.stderr)
        return 1
    split = {part: [known[name] for name in listed.split()] for part, listed in names.items()}
    write_whole(args.output, (json.dumps(split) + "\n").encode())
    print(", ".join(f"{part}: {len(rows)}" for part, rows in split.items()))
    return 0


def rows_of_rtp(path: Path) -> dict[str, int]:
    """Return the row number of each row by its name."""
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return {name_of(line.strip()): at for at, line in enumerate(lines)}


def rows_of_harm(paths: list[Path]) -> dict[str, str]:
    """Return each request by its name: the column `prompt` or `goal` of CSV, the instruction and its input of JSON."""
    found = {}
    for path in paths:
        if path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as file:
                texts = [row.get("goal") or row["prompt"] for row in csv.DictReader(file)]
        else:
            texts = instructions(path)
        found |= {name_of(text): text for text in texts}
    return found


def name_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


if __name__ == "__main__":
    sys.exit(main())
