"""`evaluate_policy_patch`: sample from the base, its alternatives and the patch, score, and report with intervals.

Toxicity is the risk measured here, by the protocol of RealToxicityPrompts (arXiv 2009.11462, section 4).
"""

import hashlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from policy_patch import __version__
from policy_patch.data.sampling import sample_completions
from policy_patch.errors import EvaluationError
from policy_patch.evaluation.intervals import Estimate, bootstrap_interval, mean, perplexity
from policy_patch.evaluation.metrics import (
    TOXIC,
    distinct_n_per_prompt,
    maximum_per_prompt,
    mean_per_prompt,
    toxic_per_prompt,
)
from policy_patch.evaluation.perplexity import conditional_nll
from policy_patch.evaluation.report import (
    EvaluationReport,
    EvaluationSettings,
    ScorerRecord,
    ShownSamples,
    SystemResult,
)
from policy_patch.evaluation.scorers import Scorer
from policy_patch.evaluation.systems import System, systems_to_compare

RISKS = ("toxicity",)
NUM_SHOWN_PROMPTS = 5

Progress = Callable[[str, int, int], None]


def evaluate_policy_patch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    risk: str = "toxicity",
    scorers: Sequence[Scorer],
    judge_model: Any,
    judge_tokenizer: Any = None,
    judge_name: str,
    teacher: Any = None,
    teacher_tokenizer: Any = None,
    safe_prompt: str | None = None,
    extra_systems: Mapping[str, Any] | None = None,
    filtered_by: Sequence[str] = (),
    num_samples: int = 25,
    max_new_tokens: int = 20,
    top_p: float = 0.9,
    temperature: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
    num_resamples: int = 2000,
    on_progress: Progress | None = None,
) -> EvaluationReport:
    """Measure how toxic and how fluent the patched model is, next to its base and to what one would use instead.

    Systems, in this order: "base", "teacher", "safe prompt" (the base with an instruction in front), the extra ones,
    "patch". All see the same prompts and the same random numbers.

    Args:
        model ([`PolicyPatchModel`]):
            The patched model, its patch active.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        prompts (`Sequence[str]`):
            Prompts that the patch was not trained on.
        risk (`str`, *optional*, defaults to `"toxicity"`):
            What to measure.
        scorers (`Sequence[Scorer]`):
            Judges of toxicity; they see the completion without its prompt. The first is the primary one.
        judge_model ([`~transformers.PreTrainedModel`]):
            The causal LM whose perplexity is measured, conditional on the prompt without the instruction. Best a
            larger one than those compared.
        judge_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to `tokenizer`.
        judge_name (`str`):
            Name of the judge model, shown with every perplexity.
        teacher ([`~transformers.PreTrainedModel`], *optional*):
            The safer model that the patch learned from.
        teacher_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Defaults to `tokenizer`.
        safe_prompt (`str`, *optional*):
            Instruction for the base without a patch, put in front of each prompt as it is.
        extra_systems (`Mapping[str, System or PreTrainedModel]`, *optional*):
            Other models to compare, by name.
        filtered_by (`Sequence[str]`, *optional*):
            Names of scorers that filtered the training pairs. The report says so beside their figures.
        num_samples (`int`, *optional*, defaults to `25`):
            Completions per prompt.
        max_new_tokens (`int`, *optional*, defaults to `20`):
            Longest completion, in tokens.
        top_p (`float`, *optional*, defaults to `0.9`):
            Nucleus to sample from.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divides the logits.
        batch_size (`int`, *optional*, defaults to `32`):
            Completions per forward pass.
        seed (`int`, *optional*, defaults to `0`):
            Seed of samples and resamples.
        num_resamples (`int`, *optional*, defaults to `2000`):
            Bootstrap resamples of the prompts.
        on_progress (`Callable[[str, int, int], None]`, *optional*):
            Called with the stage, what is done and what there is to do.

    Returns:
        [`EvaluationReport`].

    Raises:
        EvaluationError: an unknown risk, no prompts, no scorers or two of one name, no name for the judge, an unknown
            name in `filtered_by` or a taken one in `extra_systems`, or a scorer that returns no probabilities.
        DataError: sampling settings out of range.
        MissingExtraError: scipy is not installed.
    """
    _check(risk, prompts, scorers, judge_name, filtered_by)
    progress = on_progress or (lambda stage, done, total: None)
    systems = systems_to_compare(
        model,
        tokenizer,
        teacher=teacher,
        teacher_tokenizer=teacher_tokenizer,
        safe_prompt=safe_prompt,
        extra_systems=extra_systems,
    )
    sampling = {
        "num_samples": num_samples,
        "max_new_tokens": max_new_tokens,
        "top_p": top_p,
        "temperature": temperature,
        "batch_size": batch_size,
        "seed": seed,
    }
    judge = (judge_model, judge_tokenizer or tokenizer, batch_size)
    interval = partial(bootstrap_interval, seed=seed, num_resamples=num_resamples)
    results, samples = {}, []
    for name, system in systems.items():
        completions, seconds = _sample(name, system, prompts, sampling, progress)
        scores = {scorer.name: _score(scorer, name, completions, progress) for scorer in scorers}
        judged = _judge(*judge, prompts, completions, on_progress=partial(progress, f"perplexity: {name}"))
        results[name] = _result(
            completions, scores, *judged, interval, model=_model_name(system.model), seconds=seconds
        )
        samples += _shown(name, prompts, completions, scores[scorers[0].name])
    return EvaluationReport(
        risk=risk,
        settings=EvaluationSettings(
            num_prompts=len(prompts),
            **{**sampling, "top_p": float(top_p), "temperature": float(temperature)},
            num_resamples=num_resamples,
            safe_prompt=safe_prompt or None,
            prompts_sha256=hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest(),
        ),
        scorers=[
            ScorerRecord(
                name=scorer.name,
                kind=getattr(scorer, "kind", "custom"),
                filtered_training_pairs=scorer.name in filtered_by,
            )
            for scorer in scorers
        ],
        judge=judge_name,
        systems=results,
        samples=sorted(samples, key=lambda sample: list(prompts).index(sample.prompt)),
        offensive_words=_offensive_words(samples, scorers[0]),
        environment=_environment(model),
    )


def _check(
    risk: str, prompts: Sequence[str], scorers: Sequence[Scorer], judge_name: str, filtered_by: Sequence[str]
) -> None:
    if risk not in RISKS:
        raise EvaluationError(f"`risk={risk!r}` cannot be measured. Available: {', '.join(RISKS)}.")
    if isinstance(prompts, str) or not len(prompts):
        raise EvaluationError("`prompts` is empty or a single text; expected a list of prompts.")
    if not scorers:
        raise EvaluationError("`scorers` is empty. Give at least one, such as `load_scorer('lexical')`.")
    for scorer in scorers:
        if not getattr(scorer, "name", "") or not callable(getattr(scorer, "score", None)):
            raise EvaluationError(f"`scorers` has a {type(scorer).__name__}; a scorer needs `name` and `score(texts)`.")
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names):
        raise EvaluationError(f"`scorers` has two of one name: {names}.")
    if not judge_name.strip():
        raise EvaluationError("`judge_name` is empty. A perplexity means nothing without the name of its judge model.")
    if isinstance(filtered_by, str):
        raise EvaluationError(f"`filtered_by={filtered_by!r}` is a text; expected a list of scorer names.")


def _sample(
    name: str, system: System, prompts: Sequence[str], sampling: dict[str, Any], progress: Progress
) -> tuple[list[list[str]], float]:
    start = time.perf_counter()
    completions = sample_completions(
        system.model,
        system.tokenizer,
        prompts,
        instruction=system.instruction,
        on_progress=partial(progress, f"sampling: {name}"),
        **sampling,
    )
    return completions, time.perf_counter() - start


def _score(scorer: Scorer, system: str, completions: list[list[str]], progress: Progress) -> np.ndarray:
    """Return `(prompts, samples)`: for each completion the probability that it is toxic."""
    stage, total = f"scoring by {scorer.name}: {system}", sum(len(texts) for texts in completions)
    progress(stage, 0, total)
    scores = np.asarray(scorer.score([text for texts in completions for text in texts]), dtype=float)
    if scores.shape != (total,) or not ((scores >= 0) & (scores <= 1)).all():
        raise EvaluationError(
            f"Scorer {scorer.name!r} returned {scores.shape} values for {total} texts, or values outside 0 to 1; "
            "expected one probability per text."
        )
    progress(stage, total, total)
    return scores.reshape(len(completions), -1)


def _judge(
    model: Any,
    tokenizer: Any,
    batch_size: int,
    prompts: Sequence[str],
    completions: list[list[str]],
    *,
    on_progress: Callable[[int, int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each prompt `(prompts,)` the negative log-likelihood of its completions in nats, and their tokens."""
    nll, tokens = conditional_nll(
        model,
        tokenizer,
        [prompt for prompt, texts in zip(prompts, completions) for _ in texts],
        [text for texts in completions for text in texts],
        batch_size=batch_size,
        on_progress=on_progress,
    )
    return nll.reshape(len(prompts), -1).sum(axis=1), tokens.reshape(len(prompts), -1).sum(axis=1)


def _result(
    completions: list[list[str]],
    scores: dict[str, np.ndarray],
    nll: np.ndarray,
    tokens: np.ndarray,
    interval: Callable[..., Estimate],
    *,
    model: str,
    seconds: float,
) -> SystemResult:
    per_prompt = {
        "average_maximum_toxicity": maximum_per_prompt,
        "toxic_rate": toxic_per_prompt,
        "mean_toxicity": mean_per_prompt,
    }
    return SystemResult(
        model=model,
        toxicity={
            scorer: {metric: interval(mean, values_of(matrix)) for metric, values_of in per_prompt.items()}
            for scorer, matrix in scores.items()
        },
        fluency={
            "perplexity": interval(perplexity, nll, tokens),
            **{f"distinct_{n}": interval(mean, distinct_n_per_prompt(completions, n)) for n in (1, 2, 3)},
        },
        num_empty=sum(text == "" for texts in completions for text in texts),
        seconds=round(seconds, 3),
        maximum_per_prompt={scorer: maximum_per_prompt(matrix).tolist() for scorer, matrix in scores.items()},
        judge_nll_per_prompt=nll.tolist(),
        judge_tokens_per_prompt=tokens.tolist(),
    )


def _shown(name: str, prompts: Sequence[str], completions: list[list[str]], scores: np.ndarray) -> list[ShownSamples]:
    """Return samples for a few prompts, evenly spaced so that no result chooses them."""
    step = max(1, len(prompts) // NUM_SHOWN_PROMPTS)
    shown = []
    for index in range(0, len(prompts), step)[:NUM_SHOWN_PROMPTS]:
        worst = int(scores[index].argmax())
        shown.append(
            ShownSamples(
                prompt=prompts[index],
                system=name,
                first=completions[index][0],
                first_score=float(scores[index, 0]),
                worst=completions[index][worst],
                worst_score=float(scores[index, worst]),
            )
        )
    return shown


def _offensive_words(samples: list[ShownSamples], scorer: Scorer) -> list[str]:
    texts = [text for sample in samples for text in (sample.prompt, sample.first, sample.worst)]
    words = sorted({word.lower() for text in texts for word in re.findall(r"\w+", text)})
    return [word for word, score in zip(words, scorer.score(words)) if score >= TOXIC]


def _model_name(model: Any) -> str:
    """Return the name a model was loaded by; of a folder its last part, since reports are published."""
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name


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
