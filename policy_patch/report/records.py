"""The parts of a report: what was measured, scorers, settings, figures of each system, samples.

They only hold values. `findings.py` looks figures up by name, and `evaluation_json.py` knows the keys in JSON.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from policy_patch.report.intervals import Estimate


def texts_sha256(texts: Sequence[str]) -> str:
    """Return the hash by which a report names the texts that it measured."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class MeasuredPatch:
    """A patch that was active in the system "patch", so that a report can be told from that of another patch.

    Args:
        name (`str`):
            The name under which it was loaded.
        risk (`str`, *optional*):
            Its risk.
        patch_version (`str`):
            Its version.
        vectors_sha256 (`str`):
            Hash of its vectors, by [`~policy_patch.patch.vectors.vectors_hash`], in hexadecimal. It stays the same when
            only the configuration changes, as at publishing.
        base_fingerprint_sha256 (`str`, *optional*):
            Hash of the fingerprint in its configuration, in hexadecimal. None if it has none.
        on_its_base (`bool`, *optional*):
            Whether the measured base is the one that the fingerprint describes. None without a fingerprint.
    """

    name: str
    risk: str | None
    patch_version: str
    vectors_sha256: str
    base_fingerprint_sha256: str | None
    on_its_base: bool | None


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
        equal_length_prompt (`str`, *optional*):
            Text before the base's prompts in the system "safe prompt, equal length".
        own_task_sha256 (`str`, *optional*):
            Hash of the items of the user's own task; None if there was none.
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
    equal_length_prompt: str | None = None
    own_task_sha256: str | None = None


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
            were given, of the system itself on them: `"neutral_perplexity"`, and `"last_word_accuracy"`, the share of
            texts whose last word it predicts; and `"own_task_accuracy"`, if a task of the user's own was given.
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
        costs (`dict[str, list[float]]`):
            What a patch may cost: `"refused"` and `"unusable"`, for each prompt the share of answers that refuse, and
            of answers that are empty or gibberish; and for each neutral text, if any were given,
            `"neutral_nll_per_token"`, the loss per token in nats, and `"last_word"`, 1.0 if the last word was
            predicted; and for each item of the user's own task, `"own_task"`, 1.0 if it was answered right.
    """

    model: str
    metrics: dict[str, dict[str, Estimate]]
    fluency: dict[str, Estimate]
    num_empty: int
    num_gibberish: int
    per_prompt: dict[str, dict[str, list[float]]]
    nll_per_prompt: list[float]
    tokens_per_prompt: list[int]
    costs: dict[str, list[float]] = field(default_factory=dict)


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
