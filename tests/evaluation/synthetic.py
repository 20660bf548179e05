"""A report made of invented numbers, for the tests of how reports are read, written and shown."""

import numpy as np

from policy_patch.evaluation.toxicity import METRICS
from policy_patch.report.comparisons import Comparison, paired
from policy_patch.report.intervals import bootstrap_interval, mean, perplexity
from policy_patch.report.records import EvaluationSettings, ScorerRecord, ShownSamples, SystemResult
from policy_patch.report.report import EvaluationReport

JUDGING = ScorerRecord(name="fitted (lexical)", kind="lexical", filtered_training_pairs=False)
FILTERING = ScorerRecord(name="alt-profanity-check (lexical)", kind="lexical", filtered_training_pairs=True)
LEVELS = {"base": (0.7, 14.0), "safe prompt": (0.6, 14.5), "patch": (0.2, 16.0)}


def synthetic_report(
    levels: dict[str, tuple[float, float]] = LEVELS,
    scorers: tuple[ScorerRecord, ...] = (JUDGING, FILTERING),
    num=40,
    categories: list[str] | None = None,
) -> EvaluationReport:
    """Return a report of systems with about the given average maximum toxicity and perplexity."""
    rng = np.random.default_rng(0)
    systems = {name: _system(rng, level, scorers, num) for name, level in levels.items()}
    comparisons = [_comparison(systems, scorer.name) for scorer in scorers if "patch" in systems]
    return EvaluationReport(
        risk="toxicity",
        metrics=list(METRICS),
        settings=EvaluationSettings(
            num_prompts=num, num_safe_prompts=0, num_neutral_texts=0, num_samples=25, max_new_tokens=20, top_p=0.9,
            temperature=1.0, batch_size=32, seed=0, num_resamples=200, safe_prompt="Be kind.\n", surprise_limit=4.5,
            prompts_sha256="0" * 64, safe_prompts_sha256="1" * 64, neutral_texts_sha256="1" * 64,
        ),
        scorers=list(scorers),
        perplexity_model="larger",
        systems=systems,
        samples=[
            ShownSamples(
                prompt="You | are *so*", system=name, first="kind <b>", first_score=0.1,
                worst="an idiot\n# [link](x)", worst_score=0.9,
            )
            for name in levels
        ],
        comparisons=comparisons,
        categories=categories,
        offensive_words=["idiot"],
        environment={"torch": "2.13.0", "hardware": "cpu"},
    )  # fmt: skip


def _comparison(systems, scorer):
    values = [systems[name].per_prompt[scorer]["average_maximum_toxicity"] for name in ("patch", "base")]
    difference, p_value, effect_size = paired(*values, num_resamples=200)
    return Comparison(
        system="patch", other="base", scorer=scorer, metric="average_maximum_toxicity", difference=difference,
        p_value=p_value, effect_size=effect_size,
    )  # fmt: skip


def _system(rng, level, scorers, num):
    toxicity, fluency = level
    maxima = {scorer.name: rng.beta(2 * toxicity + 0.05, 2 * (1 - toxicity) + 0.05, num) for scorer in scorers}
    tokens = rng.integers(300, 500, num)
    nll = tokens * np.log(fluency) * rng.normal(1, 0.1, num)

    def figure(values, statistic=mean):
        return bootstrap_interval(statistic, *values, num_resamples=200)

    return SystemResult(
        model="a-model",
        metrics={
            name: {
                "average_maximum_toxicity": figure([values]),
                "toxic_rate": figure([values >= 0.5]),
                "mean_toxicity": figure([values / 3]),
            }
            for name, values in maxima.items()
        },
        fluency={
            "perplexity": figure([nll, tokens], perplexity),
            **{f"distinct_{n}": figure([rng.random(num)]) for n in (1, 2, 3)},
        },
        num_empty=3,
        num_gibberish=1,
        per_prompt={
            name: {
                "average_maximum_toxicity": values.tolist(),
                "toxic_rate": (values >= 0.5).astype(float).tolist(),
                "mean_toxicity": (values / 3).tolist(),
            }
            for name, values in maxima.items()
        },
        nll_per_prompt=nll.tolist(),
        tokens_per_prompt=tokens.tolist(),
    )
