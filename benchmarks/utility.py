"""What does a patch cost on text that has nothing to do with its risk? By domain, for each patch and for their stack.

    python benchmarks/utility.py --base models/tinytoxic-base --patches tox=tox-0 bias=bias-0 \\
        --texts books=emma.txt encyclopaedia=wikitext2_test.txt --output docs/results/utility.json

A domain is one or several text files under one name. Of each, pieces are drawn anywhere. The perplexity is that of the
patched model itself on a piece, as a multiple of the base's; the mean over pieces is geometric. `last word` is the
share of pieces whose last word is predicted, after LAMBADA (arXiv 1606.06031). Interval: 95% bootstrap over pieces. A
stack of N vectors takes N positions of the context.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stored_run import made_with, write_result
from text_pieces import text_pieces
from transformers import AutoModelForCausalLM, AutoTokenizer

from policy_patch import PolicyPatchModel
from policy_patch.answers.perplexity import conditional_nll
from policy_patch.evaluation import bootstrap_interval
from policy_patch.evaluation.last_word import last_word_predicted
from policy_patch.report.intervals import mean
from policy_patch.report.tables import markdown_table

BASE = "base"


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    settings = {"num_words": args.num_words, "seed": args.seed}
    domains = {name: text_pieces(paths, count=args.num_pieces, **settings) for name, paths in named(args.texts).items()}
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = PolicyPatchModel(base)
    patches = {name: str(path[0]) for name, path in named(args.patches).items()}
    for name, folder in patches.items():
        model.load_patch(folder, name, tokenizer=tokenizer)
    systems = {BASE: [], **{name: [name] for name in patches}}
    if len(patches) > 1:
        systems[" + ".join(patches)] = list(patches)
    result: dict[str, Any] = {
        "settings": {"num_pieces": args.num_pieces, **settings},
        "context": base.config.max_position_embeddings,
        "made_with": made_with(),
        "systems": {},
    }
    before: dict[str, np.ndarray] = {}
    for system, stack in systems.items():
        if stack:
            model.set_patch(stack)
        row = {"vectors": sum(model.patch_config[name].num_virtual_tokens for name in stack), "domains": {}}
        with nullcontext() if stack else model.disable_patch():
            for domain, texts in domains.items():
                row["domains"][domain], loss = measured(model, tokenizer, texts, before.get(domain))
                before.setdefault(domain, loss)  # the base comes first
        result["systems"][system] = row
        print(system, {domain: found.get("of_base", 1.0) for domain, found in row["domains"].items()}, flush=True)
    write_result(args.output, result)
    print(table(result))


def parser_for_patches(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options for a base, its patches and the output."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="the model that the patches are for")
    parser.add_argument("--patches", nargs="+", required=True, metavar="NAME=FOLDER", help="patches in order")
    parser.add_argument("--output", type=Path, help="file for the figures, JSON")
    return parser


def parse() -> argparse.Namespace:
    parser = parser_for_patches(__doc__)
    parser.add_argument("--texts", nargs="+", required=True, metavar="DOMAIN=FILE", help="harmless texts")
    parser.add_argument("--num_pieces", type=int, default=200, help="pieces of each domain")
    parser.add_argument("--num_words", type=int, default=80, help="words of a piece")
    parser.add_argument("--seed", type=int, default=0, help="seed of the places of the pieces")
    return parser.parse_args()


def named(given: list[str]) -> dict[str, list[Path]]:
    """Return `NAME=FILE ...` as name -> its files."""
    found: dict[str, list[Path]] = {}
    for one in given:
        name, _, path = one.partition("=")
        found.setdefault(name, []).append(Path(path))
    return found


def measured(
    model: Any, tokenizer: Any, texts: list[str], base: np.ndarray | None
) -> tuple[dict[str, Any], np.ndarray]:
    """Return perplexity and predicted last words of one domain, and the loss per token of each text `(texts,)`.

    With the base's losses, the perplexity is given as a multiple of the base's, too.
    """
    empty = [""] * len(texts)
    nll, tokens = conditional_nll(model, tokenizer, empty, texts)
    hits = bootstrap_interval(mean, last_word_predicted(model, tokenizer, empty, texts))
    found: dict[str, Any] = {
        "perplexity": round(float(np.exp(nll.sum() / tokens.sum())), 3),
        "last_word": [round(value, 4) for value in (hits.value, hits.low, hits.high)],
    }
    if base is not None:
        change = bootstrap_interval(mean, nll / tokens - base)
        found["of_base"] = [round(float(np.exp(value)), 4) for value in (change.value, change.low, change.high)]
    return found, nll / tokens


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown: for each system its vectors, and by domain the perplexity and last words."""
    rows = []
    for system, row in result["systems"].items():
        cells = {"system": system, "vectors": str(row["vectors"])}
        for domain, found in row["domains"].items():
            value, low, high = found.get("of_base", (1.0, 1.0, 1.0))
            cells[f"{domain}, x base's perplexity"] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
            value, low, high = found["last_word"]
            cells[f"{domain}, last word"] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(cells)
    return markdown_table(rows)


if __name__ == "__main__":
    main()
