"""How far gibberish is from text under the perplexity model; `SURPRISE_RATIO` of `evaluation/gibberish.py` rests on it.

    python benchmarks/gibberish.py lab:base lab:teacher --prompts lab:harmfulness/test

For answers of a base and of its teacher, as they are and with their words shuffled: their perplexity under the teacher
as a multiple of the base's median, and the share above 5, 10 and 20 times of it.
"""

import argparse
import random

import numpy as np

from policy_patch.data import sample_completions
from policy_patch.evaluation import conditional_nll
from policy_patch.recipes import load_model, prompts_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("teacher")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--num_prompts", type=int, default=100)
    parser.add_argument("--num_samples", type=int, default=4)
    args = parser.parse_args()
    (base, tokenizer), (teacher, _) = load_model(args.base), load_model(args.teacher)
    prompts = prompts_of(args.prompts)[: args.num_prompts]
    repeated = [prompt for prompt in prompts for _ in range(args.num_samples)]
    median = None
    print("| answers | median | 99% | above 5 | above 10 | above 20 |\n| --- | --- | --- | --- | --- | --- |")
    for name, model in (("base", base), ("teacher", teacher)):
        rows = sample_completions(
            model, tokenizer, prompts, num_samples=args.num_samples, max_new_tokens=24, batch_size=128
        )
        texts = [text for row in rows for text in row]
        draw = random.Random(0)
        shuffled = [" " + " ".join(draw.sample(text.split(), len(text.split()))) for text in texts]
        for kind, found in (("as they are", texts), ("words shuffled", shuffled)):
            nll, tokens = conditional_nll(teacher, tokenizer, repeated, found, batch_size=128)
            surprise = np.exp(nll[tokens > 0] / tokens[tokens > 0])
            median = median or float(np.median(surprise))
            ratios = surprise / median
            above = " | ".join(f"{(ratios > limit).mean():.1%}" for limit in (5, 10, 20))
            print(f"| {name}, {kind} | {np.median(ratios):.1f} | {np.quantile(ratios, 0.99):.1f} | {above} |")


if __name__ == "__main__":
    main()
