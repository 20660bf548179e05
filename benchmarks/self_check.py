"""How long does the check take that each base passes before it carries a patch?

    python benchmarks/self_check.py --output docs/results/self_check.json

A Llama of 168 million parameters (or another preset) with random weights. Each round forgets what is known of the class
and runs the check anew: milliseconds, median [quartiles] after one round of warming up. Beside it the same where the
class is known already, which every further wrapper of a process pays.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from overhead import PRESETS, build_base
from stored_run import made_with
from transformers.utils import logging

from policy_patch.files.atomic import write_whole
from policy_patch.injection import self_check
from policy_patch.model.freezing import Freezing


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    base = build_base(args)
    freezing = Freezing(base)  # as a wrapper does first
    times: dict[str, list[float]] = {"first of its class": [], "class known": []}
    for number in range(args.rounds + 1):
        self_check._FOUND.clear()
        for values in times.values():  # the second run finds the class known
            start = time.perf_counter()
            injection = self_check.checked_injection(base)
            took = 1000 * (time.perf_counter() - start)
            injection.remove()
            if number:  # the first round warms up
                values.append(took)
    freezing.end()
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{name}: {middle:.1f} ms [{low:.1f}, {high:.1f}]")
    if args.output:
        told = {name: value for name, value in vars(args).items() if name != "output"}
        write_whole(
            args.output, (json.dumps({"settings": told | made_with(), "milliseconds": times}, indent=1) + "\n").encode()
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="168m", help="shape of the base; %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="%(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="%(default)s")
    parser.add_argument("--output", type=Path, help="JSON of all times")
    return parser.parse_args()


if __name__ == "__main__":
    main()
