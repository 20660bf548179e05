"""`evaluate_policy_patch`: ask the base, its alternatives and the patch, measure one risk, and report with intervals.

What is measured is the business of the risk (`risks.py`); who is compared, of `systems.py`.
"""

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policy_patch._version import __version__
from policy_patch.answers.answering import Sampling
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.asking import Asking, Seen
from policy_patch.evaluation.gibberish import surprise_limit
from policy_patch.evaluation.metrics import TOXIC, distinct_n_per_prompt
from policy_patch.evaluation.observed import Measured, Observed
from policy_patch.evaluation.readings import Progress
from policy_patch.evaluation.risks import Risk, risk_named
from policy_patch.evaluation.systems import BASE, PATCH, systems_to_compare
from policy_patch.files.texts import check_texts
from policy_patch.privacy.local_names import without_folders
from policy_patch.report.comparisons import Comparison, paired
from policy_patch.report.intervals import Estimate, bootstrap_interval, mean, perplexity
from policy_patch.report.report import (
    EvaluationReport,
    EvaluationSettings,
    ScorerRecord,
    ShownSamples,
    SystemResult,
)

NUM_SHOWN_PROMPTS = 5


def evaluate_policy_patch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    risk: str = "toxicity",
    scorers: Sequence[Any],
    safe_prompts: Sequence[str] = (),
    neutral_texts: Sequence[str] = (),
    categories: Sequence[str] | None = None,
    judge_model: Any,
    judge_tokenizer: Any = None,
    judge_name: str,
    teacher: Any = None,
    teacher_tokenizer: Any = None,
    safe_prompt: str | None = None,
    untrained: bool = False,
    extra_systems: Mapping[str, Any] | None = None,
    filtered_by: Sequence[str] = (),
    allow_filtering_scorers: bool = False,
    num_samples: int | None = None,
    max_new_tokens: int | None = None,
    top_p: float | None = None,
    temperature: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    num_resamples: int = 2000,
    work_dir: str | os.PathLike | None = None,
    on_progress: Progress | None = None,
) -> EvaluationReport:
    """Measure how a patch changes one risk, and what it costs, next to its base and to what one would use instead.

    Systems, in this order: "base", "teacher", "safe prompt" (the base with an instruction in front), "untrained patch",
    the extra ones, "patch". All see the same prompts and the same random numbers.

    Of a model that thinks before it answers, the answer alone counts, for every figure and every scorer. Thoughts that
    were cut at `max_new_tokens` are no answer: it counts as empty, neither refused nor complied, and a warning says how
    many there are.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model, its patch active.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        prompts (`Sequence[str]`):
            Prompts that the patch was not trained on.
        risk (`str`, *optional*, defaults to `"toxicity"`):
            What to measure: `"toxicity"`, `"gender_bias"`, `"harmfulness"` or a [`Risk`] of your own, by its name.
        scorers (`Sequence[Scorer]`, `Sequence[GenderWords]` or `Sequence[Judge]`):
            What decides, for toxicity, gender bias and harmfulness in this order. The first is the primary one.
        safe_prompts (`Sequence[str]`, *optional*):
            For harmfulness: harmless requests that look like harmful ones, to measure over-refusal.
        neutral_texts (`Sequence[str]`, *optional*):
            Texts whose perplexity under each system says what it costs beside the risk.
        categories (`Sequence[str]`, *optional*):
            Category of each prompt, for figures by category.
        judge_model ([`~transformers.PreTrainedModel`]):
            The causal LM whose perplexity of the answers is measured, conditional on the prompt without the
            instruction. Best a larger one than those compared.
        judge_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to `tokenizer`.
        judge_name (`str`):
            Name of the judge model, shown with every perplexity.
        teacher ([`~transformers.PreTrainedModel`] or [`Answering`], *optional*):
            The safer model that the patch learned from.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to `tokenizer`.
        safe_prompt (`str`, *optional*):
            Instruction for the base without a patch, put in front of each prompt as it is.
        untrained (`bool`, *optional*, defaults to `False`):
            Also measure the patch as it was before training.
        extra_systems (`Mapping[str, System or PreTrainedModel]`, *optional*):
            Other models to compare, by name.
        filtered_by (`Sequence[str]`, *optional*):
            Names of scorers that filtered the training pairs, beside those that the patch itself names.
        allow_filtering_scorers (`bool`, *optional*, defaults to `False`):
            Let such a scorer judge, and mark its figures. By default it is refused: it favours the patch.
        num_samples (`int`, *optional*):
            Completions per prompt. Defaults to the risk's: 25 for toxicity, 10 for gender bias, 1 for harmfulness.
        max_new_tokens (`int`, *optional*):
            Longest completion, in tokens. Defaults to the risk's: 20, and 64 for harmfulness.
        top_p (`float`, *optional*):
            Nucleus to sample from. Defaults to the risk's: 0.9, and for harmfulness 1.0.
        temperature (`float`, *optional*):
            Divides the logits. Defaults to the risk's: 1.0, and for harmfulness greedy decoding.
        batch_size (`int`, *optional*, defaults to `32`):
            Completions per forward pass.
        seed (`int`, *optional*, defaults to `0`):
            Seed of samples, resamples and permutations.
        num_resamples (`int`, *optional*, defaults to `2000`):
            Bootstrap resamples of the prompts, and permutations of a test.
        work_dir (`str` or `os.PathLike`, *optional*):
            Folder that keeps the completions and what was read off them, so that an evaluation that was stopped goes
            on. Needed under `accelerate launch`, where the processes share the work.
        on_progress (`Callable[[str, int, int], None]`, *optional*):
            Called with the stage, what is done and what there is to do.

    Returns:
        [`EvaluationReport`]: the same for the same seed, whether it was stopped meanwhile or not.

    Raises:
        EvaluationError: an unknown risk, no prompts, what cannot decide about the risk, a scorer that filtered the
            training pairs, two of one name, no name for the judge, a taken name in `extra_systems`, or a scorer that
            returns no probabilities.
        DataError: sampling settings out of range, or a `work_dir` of another evaluation.
        MissingExtraError: scipy is not installed.
    """
    kind = risk_named(risk)
    filtered_by = sorted({*_texts("filtered_by", filtered_by), *_filtering_scorers(model)})
    _check(kind, prompts, scorers, judge_name, categories)
    safe_prompts = _texts("safe_prompts", safe_prompts)
    if safe_prompts and not kind.asks_safe_prompts:
        raise EvaluationError(
            f"`safe_prompts` measure over-refusal, and {kind.name} has no such figure. Leave them out, or measure "
            "`risk='harmfulness'`."
        )
    _check_independence(scorers, filtered_by, allowed=allow_filtering_scorers)
    asked = {
        "num_samples": num_samples, "max_new_tokens": max_new_tokens, "top_p": top_p, "temperature": temperature
    }  # fmt: skip
    asked = {name: getattr(kind, name) if value is None else value for name, value in asked.items()}
    sampling = Sampling(**asked, batch_size=batch_size, seed=seed)
    systems = systems_to_compare(
        model, tokenizer, teacher=teacher, teacher_tokenizer=teacher_tokenizer, safe_prompt=safe_prompt,
        untrained=untrained, extra_systems=extra_systems,
    )  # fmt: skip
    asking = Asking(
        list(prompts), safe_prompts, _texts("neutral_texts", neutral_texts), sampling,
        judge_model, judge_tokenizer or tokenizer, None if work_dir is None else Path(work_dir),
        on_progress or (lambda stage, done, total: None),
    )  # fmt: skip
    interval = partial(bootstrap_interval, seed=seed, num_resamples=num_resamples)
    results, samples, limit = {}, [], None
    for name, system in systems.items():
        with system.opened() as opened:
            seen = asking.ask(name, system, opened)
            limit = surprise_limit(seen.nll.ravel(), seen.tokens.ravel()) if name == BASE else limit
            observed = asking.observed(name, system, opened, seen, limit)
            measured = {scorer.name: kind.measure(observed, scorer) for scorer in scorers}
            results[name] = _result(observed, seen, measured, interval, model=_model_name(opened))
        samples += _shown(name, observed, measured[scorers[0].name].scores)
    return EvaluationReport(
        risk=risk,
        metrics=list(kind.metrics),
        settings=EvaluationSettings(
            num_prompts=len(prompts), num_safe_prompts=len(safe_prompts), num_neutral_texts=len(neutral_texts),
            num_samples=sampling.num_samples, max_new_tokens=sampling.max_new_tokens, top_p=float(sampling.top_p),
            temperature=float(sampling.temperature), batch_size=batch_size, seed=seed, num_resamples=num_resamples,
            safe_prompt=safe_prompt or None, surprise_limit=limit, prompts_sha256=_sha256(prompts),
            safe_prompts_sha256=_sha256(safe_prompts), neutral_texts_sha256=_sha256(neutral_texts),
        ),
        scorers=[
            ScorerRecord(
                name=scorer.name,
                kind=getattr(scorer, "kind", "custom"),
                filtered_training_pairs=_filtered(scorer.name, filtered_by),
            )
            for scorer in scorers
        ],
        judge=judge_name,
        systems=results,
        samples=sorted(samples, key=lambda sample: list(prompts).index(sample.prompt)),
        comparisons=list(_comparisons(kind, results, partial(paired, seed=seed, num_resamples=num_resamples))),
        categories=None if categories is None else list(categories),
        offensive_words=_offensive_words(samples, scorers[0]) if kind.masks_words else [],
        environment=_environment(model),
    )  # fmt: skip


# What is refused


def _check(
    kind: Risk, prompts: Sequence[str], scorers: Sequence[Any], judge_name: str, categories: Sequence[str] | None
) -> None:
    if isinstance(prompts, str) or not len(prompts):
        raise EvaluationError("`prompts` is empty or a single text; expected a list of prompts.")
    check_texts(prompts, "prompts", EvaluationError)
    if categories is not None and len(categories) != len(prompts):
        raise EvaluationError(f"{len(prompts)} prompts and {len(categories)} categories; expected one of each.")
    if not scorers:
        raise EvaluationError(f"`scorers` is empty. Give at least one; for {kind.name}: {', '.join(kind.scorers)}.")
    for scorer in scorers:
        kind.check_scorer(scorer)
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names):
        raise EvaluationError(f"`scorers` has two of one name: {names}.")
    if not judge_name.strip():
        raise EvaluationError("`judge_name` is empty. A perplexity means nothing without the name of its judge model.")


def _texts(name: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str):
        raise EvaluationError(f"`{name}={values!r}` is a text; expected a list of texts.")
    check_texts(list(values), name, EvaluationError)
    return list(values)


def _filtering_scorers(model: Any) -> list[str]:
    """Return what filtered the training pairs of a model's patches, active or not: a stack may make them so."""
    return [name for config in getattr(model, "patch_config", {}).values() for name in config.filtered_by or ()]


def _filtered(scorer: str, filtered_by: Sequence[str]) -> bool:
    """Whether a scorer, or a part that two combined ones share, is among those that filtered."""
    # A published patch names what filtered its pairs without the folders of the machine that made it.
    parts = set(without_folders(scorer).split(" + "))
    return any(parts & set(without_folders(name).split(" + ")) for name in filtered_by)


def _check_independence(scorers: Sequence[Any], filtered_by: Sequence[str], *, allowed: bool) -> None:
    biased = [scorer.name for scorer in scorers if _filtered(scorer.name, filtered_by)]
    if biased and not allowed:
        raise EvaluationError(
            f"`{biased[0]}` filtered the pairs that the patch was trained on, so it favours the patch and cannot judge "
            "it. Give another scorer, or `allow_filtering_scorers=True` to have its figures marked."
        )


# What comes out


def _result(
    observed: Observed,
    seen: Seen,
    measured: Mapping[str, Measured],
    interval: Callable[..., Estimate],
    *,
    model: str,
) -> SystemResult:
    nll, tokens = seen.nll.sum(axis=1), seen.tokens.sum(axis=1)
    num_empty = sum(not text.strip() for row in seen.answers for text in row)
    fluency = {
        "perplexity": interval(perplexity, nll, tokens),
        **{f"distinct_{n}": interval(mean, distinct_n_per_prompt(seen.answers, n)) for n in (1, 2, 3)},
    }
    if observed.neutral is not None:
        fluency["neutral_perplexity"] = interval(perplexity, *observed.neutral)
    return SystemResult(
        model=model,
        metrics={
            scorer: {metric: interval(mean, values) for metric, values in found.per_prompt.items()}
            for scorer, found in measured.items()
        },
        fluency=fluency,
        num_empty=num_empty,
        num_gibberish=int(observed.unusable.sum()) - num_empty,
        per_prompt={
            scorer: {metric: values.tolist() for metric, values in found.per_prompt.items()}
            for scorer, found in measured.items()
        },
        judge_nll_per_prompt=nll.tolist(),
        judge_tokens_per_prompt=tokens.tolist(),
    )


def _comparisons(
    kind: Risk, results: Mapping[str, SystemResult], compare: Callable[..., tuple[Estimate, float, float]]
) -> Iterator[Comparison]:
    """Compare each system with the base, and the patch with each other one."""
    pairs = [(name, BASE) for name in results if name != BASE]
    pairs += [(PATCH, name) for name in results if name not in (BASE, PATCH)]
    for system, other in pairs:
        one, two = results[system], results[other]
        for scorer, found in one.per_prompt.items():
            for metric in kind.metrics:
                values, others = found.get(metric.name), two.per_prompt[scorer].get(metric.name)
                if values is not None and others is not None:
                    yield _comparison(system, other, scorer, metric.name, compare(values, others))
        losses = [_nll_per_token(result) for result in (one, two)]
        both = ~np.isnan(losses).any(axis=0)
        if both.any():
            yield _comparison(system, other, None, "nll_per_token", compare(*(values[both] for values in losses)))


def _comparison(system: str, other: str, scorer: str | None, metric: str, found: tuple) -> Comparison:
    difference, p_value, effect = found
    return Comparison(
        system=system, other=other, scorer=scorer, metric=metric, difference=difference, p_value=p_value,
        effect_size=effect,
    )  # fmt: skip


def _nll_per_token(result: SystemResult) -> np.ndarray:
    """Return `(prompts,)` nats, NaN where a system wrote nothing."""
    tokens = np.array(result.judge_tokens_per_prompt, dtype=float)
    return np.array(result.judge_nll_per_prompt) / np.where(tokens > 0, tokens, np.nan)


def _shown(name: str, observed: Observed, scores: np.ndarray) -> list[ShownSamples]:
    """Return samples for a few prompts, evenly spaced so that no result chooses them."""
    prompts, answers = observed.prompts, observed.answers
    step = max(1, len(prompts) // NUM_SHOWN_PROMPTS)
    shown = []
    for index in range(0, len(prompts), step)[:NUM_SHOWN_PROMPTS]:
        worst = int(scores[index].argmax())
        shown.append(
            ShownSamples(
                prompt=prompts[index],
                system=name,
                first=answers[index][0],
                first_score=float(scores[index, 0]),
                worst=answers[index][worst],
                worst_score=float(scores[index, worst]),
            )
        )
    return shown


def _offensive_words(samples: list[ShownSamples], scorer: Any) -> list[str]:
    texts = [text for sample in samples for text in (sample.prompt, sample.first, sample.worst)]
    words = sorted({word.lower() for text in texts for word in re.findall(r"\w+", text)})
    return [word for word, score in zip(words, scorer.score(words)) if score >= TOXIC]


def _sha256(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _model_name(model: Any) -> str:
    """Return the name a model was loaded by; of a folder its last part, since reports are published."""
    if not hasattr(model, "config"):
        return getattr(model, "name", type(model).__name__)
    return without_folders(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def _environment(model: Any) -> dict[str, str]:
    found = {"policy-patch": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "scipy", "scikit-learn", "alt-profanity-check"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an optional one, not used then
            continue
    device = torch.device(model.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    found["hardware"] = f"{device.type} {name}, {torch.get_num_threads()} threads"
    return found
