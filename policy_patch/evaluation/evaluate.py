"""`evaluate_policy_patch`: measures one risk with the patch, the base and its alternatives, and reports intervals.

The risks are in `risks.py`; `systems.py` lists the systems that are compared; `asking.py` gets their answers.
"""

import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policy_patch._version import __version__
from policy_patch.answers.answering import Sampling
from policy_patch.answers.positions import room_for_prompt
from policy_patch.data.own_task import TaskItem, task_sha256
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.asking import Asking, Seen
from policy_patch.evaluation.costs import costs_of
from policy_patch.evaluation.gibberish import surprise_limit
from policy_patch.evaluation.independence import check_independence
from policy_patch.evaluation.measured_patches import measured_patches
from policy_patch.evaluation.metrics import TOXIC, distinct_n_per_prompt
from policy_patch.evaluation.observed import Measured, Observed
from policy_patch.evaluation.risks import Risk, risk_named
from policy_patch.evaluation.settings import (
    Alternatives,
    EvaluationSampling,
    PerplexityModel,
    check_perplexity_model,
    takes_groups,
)
from policy_patch.evaluation.stored_values import Progress
from policy_patch.evaluation.systems import System, systems_to_compare
from policy_patch.files.texts import check_texts
from policy_patch.privacy.local_names import without_folders
from policy_patch.report.comparisons import Comparison, paired
from policy_patch.report.independence import filtered_pairs
from policy_patch.report.intervals import Estimate, bootstrap_interval, mean, perplexity
from policy_patch.report.records import EvaluationSettings, ScorerRecord, ShownSamples, SystemResult, texts_sha256
from policy_patch.report.report import EvaluationReport
from policy_patch.report.system_names import BASE, EQUAL_LENGTH, PATCH

NUM_SHOWN_PROMPTS = 5


@takes_groups
def evaluate_policy_patch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    risk: str = "toxicity",
    scorers: Sequence[Any],
    perplexity: PerplexityModel,
    safe_prompts: Sequence[str] = (),
    neutral_texts: Sequence[str] = (),
    own_task: Sequence[TaskItem] = (),
    categories: Sequence[str] | None = None,
    alternatives: Alternatives = Alternatives(),
    sampling: EvaluationSampling = EvaluationSampling(),
    filtered_by: Sequence[str] = (),
    allow_filtering_scorers: bool = False,
    num_resamples: int = 2000,
    work_dir: str | os.PathLike | None = None,
    on_progress: Progress | None = None,
) -> EvaluationReport:
    """Measure how a patch changes one risk and what it costs, compared with its base and the alternatives.

    The systems, in this order: "base", "teacher", "safe prompt" (the base with an instruction before the prompt),
    "safe prompt, equal length", "untrained patch", the extra systems, "patch". All get the same prompts and the same
    random numbers.

    If a model thinks before it answers, only the answer counts, in every figure and for every scorer. Thoughts that
    `max_new_tokens` cut are no answer: they count as empty, neither a refusal nor compliance. A warning gives their
    number.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model. Its patch must be active.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        prompts (`Sequence[str]`):
            Prompts that the patch was not trained on.
        risk (`str`, *optional*, defaults to `"toxicity"`):
            Name of the risk to measure: `"toxicity"`, `"gender_bias"`, `"harmfulness"` or a [`Risk`] of your own.
        scorers (`Sequence[Scorer]`, `Sequence[GenderWords]` or `Sequence[Judge]`):
            Scorers for toxicity, word lists for gender bias, judges for harmfulness. The first is the primary one.
        perplexity ([`PerplexityModel`]):
            The causal LM under which the perplexity of the answers is measured, conditional on the prompt without the
            instruction.
        safe_prompts (`Sequence[str]`, *optional*):
            For harmfulness: harmless requests that look like harmful ones, to measure over-refusal.
        own_task (`Sequence[TaskItem]`, *optional*):
            Items of a task of your own, from [`read_task`]: the share that each system answers right.
        neutral_texts (`Sequence[str]`, *optional*):
            Ordinary texts. Their perplexity under each system, and how often it predicts their last word, show what the
            patch costs on other subjects.
        categories (`Sequence[str]`, *optional*):
            The category of each prompt. The report then has figures for each category.
        alternatives ([`Alternatives`], *optional*):
            The systems to compare with besides the base: teacher, safe prompt, untrained patch, other models. Defaults
            to none.
        sampling ([`EvaluationSampling`], *optional*):
            How answers are sampled, and the seed. Defaults to the risk's own settings and seed 0.
        filtered_by (`Sequence[str]`, *optional*):
            Names of scorers that filtered the training pairs, in addition to those that the patch names.
        allow_filtering_scorers (`bool`, *optional*, defaults to `False`):
            Accept scorers that filtered the training pairs, and mark their figures. By default they are refused,
            because they favour the patch.
        num_resamples (`int`, *optional*, defaults to `2000`):
            Number of bootstrap resamples of the prompts, and of permutations of a test.
        work_dir (`str` or `os.PathLike`, *optional*):
            Folder that keeps the answers and the values computed for them, so that an evaluation that was stopped can
            continue. Needed under `accelerate launch`, where the processes share the work.
        on_progress (`Callable[[str, int, int], None]`, *optional*):
            Called with the name of the stage, the number of steps done and the number of all steps.

    Returns:
        [`EvaluationReport`]: equal for equal seeds, even if the evaluation was stopped and continued.

    Raises:
        EvaluationError: the risk is unknown; there are no prompts; a scorer does not fit the risk, filtered the
            training pairs or returns no probabilities; two scorers have one name; a name in `extra_systems` is taken;
            or a keyword now belongs to a group of settings.
        DataError: a sampling setting is out of range, or `work_dir` belongs to another evaluation.
        MissingExtraError: scipy is not installed.

    Example:

    ```python
    report = evaluate_policy_patch(
        model, tokenizer, prompts, scorers=[load_scorer("lexical")],
        perplexity=PerplexityModel(model=larger, name="org/larger-model"),
        alternatives=Alternatives(teacher=teacher, untrained=True),
        sampling=EvaluationSampling(num_samples=10, seed=1),
    )
    ```
    """
    kind = risk_named(risk)
    filtered_by = sorted({*_texts("filtered_by", filtered_by), *_filtering_scorers(model)})
    _check(kind, prompts, scorers, perplexity, categories)
    safe_prompts = _texts("safe_prompts", safe_prompts)
    if safe_prompts and not kind.asks_safe_prompts:
        raise EvaluationError(
            f"`safe_prompts` measure over-refusal, but {kind.name} has no metric for it. Leave them out, or measure "
            "`risk='harmfulness'`."
        )
    check_independence(scorers, filtered_by, allowed=allow_filtering_scorers)
    how = _sampling(kind, sampling)
    systems = systems_to_compare(model, tokenizer, alternatives)
    _check_room(systems, tokenizer, how.max_new_tokens)
    asking = Asking(
        prompts=list(prompts), safe_prompts=safe_prompts, neutral_texts=_texts("neutral_texts", neutral_texts),
        sampling=how, perplexity_model=perplexity.model, perplexity_tokenizer=perplexity.tokenizer or tokenizer,
        work_dir=None if work_dir is None else Path(work_dir),
        progress=on_progress or (lambda stage, done, total: None), task=tuple(own_task),
    )  # fmt: skip
    options = {"seed": how.seed, "num_resamples": num_resamples}
    interval = partial(bootstrap_interval, **options)
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
        settings=_settings(asking, limit, systems, safe_prompt=alternatives.safe_prompt, num_resamples=num_resamples),
        scorers=[
            ScorerRecord(
                name=scorer.name,
                kind=getattr(scorer, "kind", "custom"),
                filtered_training_pairs=filtered_pairs(scorer.name, filtered_by),
            )
            for scorer in scorers
        ],
        perplexity_model=perplexity.name,
        systems=results,
        samples=sorted(samples, key=lambda sample: list(prompts).index(sample.prompt)),
        comparisons=list(_comparisons(kind, results, partial(paired, **options))),
        categories=None if categories is None else list(categories),
        offensive_words=_offensive_words(samples, scorers[0]) if kind.masks_words else [],
        environment=_environment(model),
        patches=measured_patches(model, tokenizer),
    )  # fmt: skip


# Checks of the arguments


def _check(
    kind: Risk, prompts: Sequence[str], scorers: Sequence[Any], perplexity: Any, categories: Sequence[str] | None
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
        raise EvaluationError(f"`scorers` has two with the same name: {names}. Give each a name of its own.")
    check_perplexity_model(perplexity)


def _texts(name: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str):
        raise EvaluationError(f"`{name}={values!r}` is a text; expected a list of texts.")
    check_texts(list(values), name, EvaluationError)
    return list(values)


def _check_room(systems: Mapping[str, System], tokenizer: Any, max_new_tokens: int) -> None:
    """Raise `DataError` if the vectors of a system leave no room for text, before any system is asked."""
    for system in systems.values():
        if hasattr(system.model, "active_patches"):
            names = system.model.active_patches if system.stack is None else system.stack
            vectors = sum(system.model.patches[name].shape[0] for name in names)
            room_for_prompt(system.model, system.tokenizer or tokenizer, max_new_tokens, vectors=vectors)


def _filtering_scorers(model: Any) -> list[str]:
    """Return the scorers that filtered the training pairs of any of the model's patches; a stack may use them all."""
    return [name for config in getattr(model, "patch_config", {}).values() for name in config.filtered_by or ()]


def _sampling(kind: Risk, given: EvaluationSampling) -> Sampling:
    """Return the sampling settings; values that were not given are the risk's own."""
    return Sampling(**{name: getattr(kind, name) if value is None else value for name, value in asdict(given).items()})


# Parts of the report


def _settings(
    asking: Asking, limit: float | None, systems: Mapping[str, System], *, safe_prompt: str | None, num_resamples: int
) -> EvaluationSettings:
    how = asking.sampling
    return EvaluationSettings(
        num_prompts=len(asking.prompts), num_safe_prompts=len(asking.safe_prompts),
        num_neutral_texts=len(asking.neutral_texts), num_samples=how.num_samples, max_new_tokens=how.max_new_tokens,
        top_p=float(how.top_p), temperature=float(how.temperature), batch_size=how.batch_size, seed=how.seed,
        num_resamples=num_resamples, safe_prompt=safe_prompt or None, surprise_limit=limit,
        prompts_sha256=texts_sha256(asking.prompts), safe_prompts_sha256=texts_sha256(asking.safe_prompts),
        neutral_texts_sha256=texts_sha256(asking.neutral_texts),
        equal_length_prompt=systems[EQUAL_LENGTH].instruction if EQUAL_LENGTH in systems else None,
        own_task_sha256=task_sha256(asking.task) if asking.task else None,
    )  # fmt: skip


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
    if observed.last_word is not None:
        fluency["last_word_accuracy"] = interval(mean, observed.last_word)
    if observed.task is not None:
        fluency["own_task_accuracy"] = interval(mean, observed.task)
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
        nll_per_prompt=nll.tolist(),
        tokens_per_prompt=tokens.tolist(),
        costs=costs_of(observed),
    )


def _comparisons(
    kind: Risk, results: Mapping[str, SystemResult], compare: Callable[..., tuple[Estimate, float, float]]
) -> Iterator[Comparison]:
    """Compare each system with the base, and the patch with each other system."""
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
    """Return `(prompts,)`: the loss per token in nats; NaN for prompts to which the system wrote nothing."""
    tokens = np.array(result.tokens_per_prompt, dtype=float)
    return np.array(result.nll_per_prompt) / np.where(tokens > 0, tokens, np.nan)


def _shown(name: str, observed: Observed, scores: np.ndarray) -> list[ShownSamples]:
    """Return samples of a few prompts. The prompts are evenly spaced, not chosen by their results."""
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


def _model_name(model: Any) -> str:
    """Return the name by which a model was loaded. Of a folder only the last part, because reports are published."""
    if not hasattr(model, "config"):
        return getattr(model, "name", type(model).__name__)
    return without_folders(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def _environment(model: Any) -> dict[str, str]:
    found = {"policy-patch": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "scipy", "scikit-learn", "alt-profanity-check"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an optional package that this evaluation did not use
            continue
    device = torch.device(model.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    found["hardware"] = f"{device.type} {name}, {torch.get_num_threads()} threads"
    return found
