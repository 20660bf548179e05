"""What an untrained start from a sentence costs in fluency, by the number of vectors: whole sentences against cut ones.

    python benchmarks/start_lengths.py --output docs/results/start_lengths.json

`init="text"` repeats the sentence and cuts it to the length of the patch: at its end, so that the last repetition is
incomplete. Two other ways are measured beside it: cut at the front, so that the first repetition is incomplete and the
last one whole; and whole repetitions after a filling of one neutral token. Measured is the perplexity of the lab's
neutral texts with the untrained vectors, as a multiple of the base's, with a bootstrap interval over the texts.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stored_run import made_with, write_result

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.lab import load_lab_base, load_lab_tokenizer
from policy_patch.recipes import prompts_of


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--texts", type=int, default=180)
    args = parser.parse_args()
    torch.set_num_threads(1)
    base, tokenizer, texts = load_lab_base(), load_lab_tokenizer(), prompts_of("lab:neutral/test")[: args.texts]
    reference, found = surprise(base, tokenizer, texts), {}
    for risk, sentence in DEFAULT_INIT_TEXTS.items():
        length = len(tokenizer(sentence, add_special_tokens=False)["input_ids"])
        lengths = sorted({length, 2 * length, 3 * length, 10, 20, 50, 100})
        found[risk] = {"tokens_of_the_sentence": length, "ratio": {}}
        for vectors in lengths:
            config = PolicyPatchConfig(num_virtual_tokens=vectors, init="text", init_text=sentence)
            model = get_policy_patch_model(base, config, tokenizer)
            found[risk]["ratio"][str(vectors)] = ratio(surprise(model, tokenizer, texts), reference)
            for way, ids in others(tokenizer, sentence, vectors).items():
                with torch.no_grad():
                    model.patches["default"].copy_(base.get_input_embeddings()(torch.tensor(ids)))
                figures = ratio(surprise(model, tokenizer, texts), reference)
                found[risk].setdefault(way, {})[str(vectors)] = figures
            model.unload()
    write_result(args.output, {"made_with": made_with(), "texts": len(texts), "starts": found})


def others(tokenizer: Any, sentence: str, vectors: int) -> dict[str, list[int]]:
    """Return the token ids of the other ways to fill that many vectors with a sentence."""
    ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
    whole = vectors // len(ids) * len(ids)
    (newline, *_) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return {
        "cut at the front": (ids * (vectors // len(ids) + 1))[-vectors:],
        "filled with line ends": [newline] * (vectors - whole) + ids * (whole // len(ids)),
    }


def surprise(model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Return the summed negative log-likelihood and the number of predicted tokens of each text, `(texts, 2)`."""
    rows = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        told = scores.gather(1, ids[0, 1:, None])
        rows.append((-told.sum().item(), len(told)))
    return np.array(rows)


def ratio(found: np.ndarray, reference: np.ndarray, resamples: int = 2000) -> list[float]:
    """Return the ratio of the perplexities with the ends of its 95% bootstrap interval over the texts."""
    some = np.random.default_rng(0).integers(len(found), size=(resamples, len(found)))
    drawn = [perplexity(found[each]) / perplexity(reference[each]) for each in some]
    figures = (perplexity(found) / perplexity(reference), *np.quantile(drawn, [0.025, 0.975]))
    return [round(float(one), 3) for one in figures]


def perplexity(rows: np.ndarray) -> float:
    return float(np.exp(rows[:, 0].sum() / rows[:, 1].sum()))


if __name__ == "__main__":
    main()
