"""What does a guard model cost when it serves, beside a patch? Time to the first token, tokens per second, memory.

    python benchmarks/guard_cost.py --output docs/results/guard_cost.json

The base is a random Llama of 113 million parameters (`--preset` as in `overhead.py`); the guards are

- a classifier of requests: TF-IDF and logistic regression, as `attacks.py` fits it;
- a model as large as the base, as Llama Guard is. It reads the request and gives one token, its verdict. That is less
  than Llama Guard does, whose instructions are 200 tokens and more: they count as cached;
- the same model on request and answer. Nothing may be shown before it has read the whole answer.

All systems answer the same random prompts in turns; a ratio is of the times of one round. Memory is that of weights and
vectors, without the cache of a request. How safe each of them is, `attacks.py` measures.
"""

import argparse
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from overhead import BASE, PATCH, PRESETS, VOCABULARY, build_base, generate, patched_model, seconds, twin
from stored_run import made_with, write_result

from policy_patch.evaluation import FittedScorer
from policy_patch.lab import lab_prompts
from policy_patch.report.tables import markdown_table

VECTORS = 50
CLASSIFIER, MODEL, ANSWERS = "classifier of requests", "guard model, requests", "guard model, requests and answers"
Run = Callable[[torch.Tensor, int], Any]


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    base = build_base(args)
    runs, memory = systems(args, base)
    times = measured(args, runs)
    result = {
        "settings": {
            name: getattr(args, name) for name in ("preset", "prompt", "new_tokens", "rounds", "threads", "device")
        }
        | {"vectors": VECTORS, "parameters": base.num_parameters()},
        "made_with": made_with(),
        "systems": {name: {"memory": memory[name], **summary(times, name, args.new_tokens)} for name in runs},
    }
    write_result(args.output, result)
    print(table(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="168m", help="shape of the base; %(default)s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a request; %(default)s")
    parser.add_argument("--new_tokens", type=int, default=32, help="of an answer; %(default)s")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="file for the figures, JSON")
    return parser.parse_args()


def systems(args: argparse.Namespace, base: Any) -> tuple[dict[str, Run], dict[str, int]]:
    """Return what answers for each system, from ids and a number of tokens, and the bytes of its weights."""
    plain, patched, guard = twin(base), patched_model(base, 1, VECTORS), twin(base)
    requests = [lab_prompts(name, "train") for name in ("harmfulness", "look_alike")]
    classifier = FittedScorer.fit(
        requests[0] + requests[1], [1] * len(requests[0]) + [0] * len(requests[1]), name="guard"
    )

    def verdict(ids: torch.Tensor) -> None:
        generate(guard, ids, 1)

    def guarded(model: Any) -> Run:
        return lambda ids, new: (verdict(ids), generate(model, ids, new))

    weights = sum(one.numel() * one.element_size() for one in base.parameters())
    vectors = VECTORS * base.config.hidden_size * 4  # fp32
    return {
        BASE: lambda ids, new: generate(plain, ids, new),
        PATCH: lambda ids, new: generate(patched, ids, new),
        f"base + {CLASSIFIER}": lambda ids, new: (classifier.score(requests[0][:1]), generate(plain, ids, new)),
        f"base + {MODEL}": guarded(plain),
        f"base + {ANSWERS}": lambda ids, new: verdict(generate(plain, ids, max(new, args.new_tokens))),
        f"patch + {MODEL}": guarded(patched),
    }, {
        BASE: weights,
        PATCH: weights + vectors,
        f"base + {CLASSIFIER}": weights,
        f"base + {MODEL}": 2 * weights,
        f"base + {ANSWERS}": 2 * weights,
        f"patch + {MODEL}": 2 * weights + vectors,
    }


def measured(args: argparse.Namespace, runs: dict[str, Run]) -> dict[str, dict[str, list[float]]]:
    """Return, for each system, the seconds to the first token and of the whole answer, a number a round."""
    torch.manual_seed(1)
    order = random.Random(0)
    times: dict[str, dict[str, list[float]]] = {name: {"first": [], "whole": []} for name in runs}
    for number in range(args.rounds + 1):
        ids = torch.randint(3, VOCABULARY, (1, args.prompt), device=args.device)
        ids[:, 0] = 1
        for name in order.sample(list(runs), len(runs)):
            for part, new in (("first", 1), ("whole", args.new_tokens)):
                took = seconds(args, lambda run=runs[name], ids=ids, new=new: run(ids, new))
                if number:  # the first round warms up
                    times[name][part].append(took)
        print(f"round {number} of {args.rounds}", flush=True)
    return times


def summary(times: dict[str, dict[str, list[float]]], name: str, tokens: int) -> dict[str, Any]:
    """Return medians of a system, and the quartiles of its ratios to the base of the same round."""
    found: dict[str, Any] = {
        "first_token_ms": round(1000 * statistics.median(times[name]["first"]), 1),
        "tokens_per_second": round(tokens / statistics.median(times[name]["whole"]), 2),
    }
    for part in ("first", "whole"):
        ratios = [own / base for own, base in zip(times[name][part], times[BASE][part], strict=True)]
        found[f"{part}_ratio"] = [round(value, 4) for value in statistics.quantiles(ratios, n=4)]
    return found


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown, with quartiles in brackets."""
    return markdown_table(
        [
            {
                "system": name,
                "first token, x base's time": ratio(row["first_ratio"]),
                "whole answer, x base's time": ratio(row["whole_ratio"]),
                "tokens per second": f"{row['tokens_per_second']:.1f}",
                "weights, MiB": f"{row['memory'] / 2**20:.1f}",
            }
            for name, row in result["systems"].items()
        ]
    )


def ratio(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
