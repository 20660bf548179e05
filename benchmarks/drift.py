"""How often the rule of `policy-patch drift` gives a false alarm over many looks, and how soon it finds a real drift.

    python benchmarks/drift.py --output docs/results/drift.json

Simulated: each prompt has a rate of bad answers of its own, drawn from Beta(1, 9) (mean 0.1) once per history; release
and looks each draw 5 answers to a prompt. The looks go through the code of the command, without its interval. The naive
rule takes each look for the only one, at 5%. A drift multiplies all rates from look 51 on. It takes two minutes of one
idle core.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from stored_run import made_with, write_result

from policy_patch.release import drift
from policy_patch.release.drift_rule import DriftRule
from tests.release.drift_reports import Watch, report_of

RULES = {"drift": DriftRule(), "naive": DriftRule(alpha=0.05 * 2 * 2, looks=1)}  # 2 windows, 2 figures: 5% each
SIZES = ((180, 60), (500, 100), (1000, 100))  # prompts of the release, and of a look
START, SAMPLES, LAST = 50, 5, 100


def first_alarm(
    rng: np.random.Generator, rule: DriftRule, size: tuple[int, int], *, looks: int, times: float
) -> int | None:
    """Return the number of the first look with an alarm, or None; from `START` on, rates are multiplied."""
    prompts, per_look = size
    rates = rng.beta(1, 9, prompts)
    watch = Watch(report_of(rng.binomial(SAMPLES, rates) / SAMPLES), rule, per_look)
    for number in range(1, looks + 1):
        now = np.minimum(1, rates * times) if number > START else rates
        watch.looks = watch.looks[-prompts // per_look :]  # a test uses no earlier ones
        if watch.look(partial(answers, rng, now)).verdict == "alarm":
            return number
    return None


def answers(rng: np.random.Generator, rates: np.ndarray, asked: list[int]) -> np.ndarray:
    return rng.binomial(SAMPLES, rates[asked]) / SAMPLES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=60)
    parser.add_argument("--looks", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    drift.bootstrap_interval = lambda *values, **options: SimpleNamespace(value=0.0, low=0.0, high=0.0)
    result = {"histories": args.histories, "looks": args.looks, "seed": 0, **made_with()}
    quiet = partial(one_run, histories=args.histories, looks=args.looks, times=1.0)
    result["false_alarms"] = {name: quiet(rule, (180, 60)) for name, rule in RULES.items()}
    result["detection"] = {
        f"{prompts} prompts, {per_look} a look, rates x {times}": one_run(
            RULES["drift"], (prompts, per_look), histories=args.histories // 3, looks=START + LAST, times=times
        )
        for prompts, per_look in SIZES
        for times in (1.5, 2.0, 3.0, 6.0)
    }
    write_result(args.output, result)


def one_run(rule: DriftRule, size: tuple[int, int], *, histories: int, looks: int, times: float) -> dict[str, object]:
    rng = np.random.default_rng(0)
    found = [first_alarm(rng, rule, size, looks=looks, times=times) for _ in range(histories)]
    real = sorted(number - START for number in found if number is not None and number > START)
    told: dict[str, object] = {"histories": histories, "with_an_alarm": sum(number is not None for number in found)}
    if times > 1:
        told |= {
            "before_the_drift": sum(number is not None and number <= START for number in found),
            "found": len(real),
            "median_looks": real[len(real) // 2] if real else None,
            "most_looks": real[-1] if real else None,
        }
    return told


if __name__ == "__main__":
    main()
