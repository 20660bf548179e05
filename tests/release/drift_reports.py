"""Reports of releases with chosen values, and histories of looks at simulated servers, for the tests of drift."""

import numpy as np

from policy_patch.release.drift import judge_figures, next_places, release_figures, verdict_of
from policy_patch.release.drift_history import DriftLook
from policy_patch.report.intervals import bootstrap_interval, mean
from policy_patch.report.metric import Metric
from policy_patch.report.records import EvaluationSettings, ScorerRecord, SystemResult
from policy_patch.report.report import EvaluationReport

METRICS = [Metric("bad_rate", "bad"), Metric("good_rate", "good", lower_is_better=False)]
SCORER = "words"


def report_of(bad, good=None, **systems):
    """Return a report whose patch has these values per prompt; further systems by name, as (bad, good)."""
    bad = np.asarray(bad, dtype=float)
    rows = {"base": (bad + 1, 1 - bad), "patch": (bad, 1 - bad if good is None else good), **systems}
    settings = EvaluationSettings(
        num_prompts=len(bad), num_safe_prompts=0, num_neutral_texts=0, num_samples=2, max_new_tokens=6, top_p=0.9,
        temperature=1.0, batch_size=8, seed=0, num_resamples=50, safe_prompt=None, surprise_limit=None,
        prompts_sha256="a", safe_prompts_sha256="b", neutral_texts_sha256="c",
    )  # fmt: skip
    return EvaluationReport(
        risk="toxicity", metrics=METRICS, settings=settings,
        scorers=[ScorerRecord(name=SCORER, kind="lexical", filtered_training_pairs=False)], perplexity_model="m",
        systems={name: _system(*row) for name, row in rows.items()}, samples=[], comparisons=[], categories=None,
        offensive_words=[], environment={},
    )  # fmt: skip


def _system(bad, good):
    rows = {"bad_rate": list(map(float, bad)), "good_rate": list(map(float, good))}
    figures = {name: bootstrap_interval(mean, row, num_resamples=20) for name, row in rows.items()}
    fluency = dict.fromkeys(("perplexity", "distinct_1", "distinct_2", "distinct_3"), figures["bad_rate"])
    return SystemResult(
        model="m", metrics={SCORER: figures}, fluency=fluency, num_empty=0, num_gibberish=0, per_prompt={SCORER: rows},
        nll_per_prompt=[1.0] * len(rows["bad_rate"]), tokens_per_prompt=[1] * len(rows["bad_rate"]),
    )  # fmt: skip


class Watch:
    """Looks at a server whose values per prompt `serve` gives, and keeps the history."""

    def __init__(self, report, rule, num_prompts):
        self.release, self.rule, self.num_prompts, self.looks = release_figures(report), rule, num_prompts, []

    def look(self, serve, probe=None):
        places = {"prompts": next_places(self.looks, self.release, self.num_prompts, "prompts")}
        order = self.release.order("prompts")
        bad = np.asarray(serve([order[place] for place in places["prompts"]]), dtype=float)
        found = {(SCORER, "bad_rate"): bad, (SCORER, "good_rate"): 1 - bad}
        figures = judge_figures(found, places, self.release, self.looks, self.rule)
        verdict, reasons = verdict_of(figures, probe)
        values = {SCORER: {metric: row.tolist() for (_, metric), row in found.items()}}
        self.looks.append(
            DriftLook(
                time="2026-11-30T12:00:00+00:00", look=len(self.looks) + 1, verdict=verdict, reasons=reasons,
                address="http://h/v1", model="m", patch="tox", version="1.0.0", commit=None, sha256="00",
                release=self.release.identity, probe=probe, first={"prompts": places["prompts"][0]}, figures=figures,
                values=values,
            )
        )  # fmt: skip
        return self.looks[-1]
