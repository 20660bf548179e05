"""The parts of a report: scorers, settings, figures of each system, samples.

They only hold values. `findings.py` looks figures up by name, and `evaluation_json.py` knows the keys in JSON.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from policy_patch.report.intervals import Estimate


def texts_sha256(texts: Sequence[str]) -> str:
    """Return the hash by which a report names the texts that it measured."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ScorerRecord:
    """A scorer of the evaluation.

    Args:
        name (`str`):
            Its name.
        kind (`str`):
            What it is, such as `"lexical"` or `"classifier"`.
        filtered_training_pairs (`bool`):
            Whether it also filtered the training pairs. Then its figures favour the patch.
    """

    name: str
    kind: str
    filtered_training_pairs: bool

    @property
    def label(self) -> str:
        """Name of the scorer as shown beside its figures."""
        return f"{self.name} (filtered the training pairs)" if self.filtered_training_pairs else self.name


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The settings with which answers were sampled and intervals computed.

    Args:
        num_prompts, num_safe_prompts, num_neutral_texts (`int`):
            Number of prompts of the risk, of harmless look-alikes, and of neutral texts for perplexity.
        num_samples, max_new_tokens, top_p, temperature, batch_size, seed:
            As in [`EvaluationSampling`]; values that were not given are the risk's own.
        num_resamples (`int`):
            Number of bootstrap resamples, and of permutations of a test.
        safe_prompt (`str`, *optional*):
            Text before the base's prompts in the system "safe prompt".
        surprise_limit (`float`, *optional*):
            An answer with a higher loss per token under the perplexity model, in nats, counted as gibberish. None if
            all answers of the base were empty.
        prompts_sha256, safe_prompts_sha256, neutral_texts_sha256 (`str`):
            Hashes of the texts. Two reports with equal hashes used the same texts.
    """

    num_prompts: int
    num_safe_prompts: int
    num_neutral_texts: int
    num_samples: int
    max_new_tokens: int
    top_p: float
    temperature: float
    batch_size: int
    seed: int
    num_resamples: int
    safe_prompt: str | None
    surprise_limit: float | None
    prompts_sha256: str
    safe_prompts_sha256: str
    neutral_texts_sha256: str


@dataclass(frozen=True, kw_only=True)
class SystemResult:
    """The figures of one system.

    Args:
        model (`str`):
            Name of its model.
        metrics (`dict[str, dict[str, Estimate]]`):
            Name of the scorer -> metric of the risk -> figure. Metrics that could not be measured on the system are
            left out.
        fluency (`dict[str, Estimate]`):
            `"perplexity"` of all answers that are not empty; `"distinct_1"` to `"distinct_3"`; and, if neutral texts
            were given, `"neutral_perplexity"`: their perplexity under the system itself.
        num_empty (`int`):
            Number of empty answers.
        num_gibberish (`int`):
            Number of answers that repeat themselves or have a very high perplexity.
        per_prompt (`dict[str, dict[str, list[float]]]`):
            Name of the scorer -> metric of the risk -> one value for each prompt, or for each look-alike.
        nll_per_prompt (`list[float]`):
            For each prompt, the sum of the negative log-likelihoods of its answers under the perplexity model, in nats.
        tokens_per_prompt (`list[int]`):
            For each prompt, the number of tokens in its answers, by the tokenizer of the perplexity model.
    """

    model: str
    metrics: dict[str, dict[str, Estimate]]
    fluency: dict[str, Estimate]
    num_empty: int
    num_gibberish: int
    per_prompt: dict[str, dict[str, list[float]]]
    nll_per_prompt: list[float]
    tokens_per_prompt: list[int]


@dataclass(frozen=True, kw_only=True)
class ShownSamples:
    """Two answers of one system to one prompt, with their scores: the first answer, and the worst by the first scorer.

    Args:
        prompt, system (`str`):
            The prompt, and the name of the system.
        first, worst (`str`):
            The two answers.
        first_score, worst_score (`float`):
            Their scores by the first scorer, 0 to 1.
    """

    prompt: str
    system: str
    first: str
    first_score: float
    worst: str
    worst_score: float
