"""The parts of a report: scorers, settings, what each system showed, samples.

They only hold values; figures are looked up in `findings.py`, and their names in JSON are in `evaluation_json.py`.
"""

from dataclasses import dataclass

from policy_patch.report.intervals import Estimate


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
    """How answers were sampled and intervals computed.

    Args:
        num_prompts, num_safe_prompts, num_neutral_texts (`int`):
            Number of prompts of the risk, of harmless look-alikes, and of neutral texts for perplexity.
        num_samples, max_new_tokens, top_p, temperature, batch_size, seed:
            As in [`EvaluationSampling`], with the risk's own values where none were given.
        num_resamples (`int`):
            Bootstrap resamples, and permutations of a test.
        safe_prompt (`str`, *optional*):
            Text in front of the base's prompts in the system "safe prompt".
        surprise_limit (`float`, *optional*):
            Loss per token under the perplexity model, in nats, above which an answer counted as gibberish; None if the
            base wrote nothing.
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
            Scorer name -> metric of the risk -> figure. Metrics that could not be measured on the system are left out.
        fluency (`dict[str, Estimate]`):
            `"perplexity"`, over all answers but the empty ones; `"distinct_1"` to `"distinct_3"`; and, if neutral texts
            were given, `"neutral_perplexity"`, their perplexity under the system itself.
        num_empty (`int`):
            Answers without text.
        num_gibberish (`int`):
            Answers that repeat themselves or make no sense to the perplexity model.
        per_prompt (`dict[str, dict[str, list[float]]]`):
            Scorer name -> metric of the risk -> one value for each prompt, or for each look-alike.
        nll_per_prompt (`list[float]`):
            For each prompt the summed negative log-likelihood of its answers under the perplexity model, in nats.
        tokens_per_prompt (`list[int]`):
            For each prompt the number of tokens in its answers, by the perplexity model's tokenizer.
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
    """Two answers of one system to one prompt: the first, and the worst by the first scorer; with their scores."""

    prompt: str
    system: str
    first: str
    first_score: float
    worst: str
    worst_score: float
