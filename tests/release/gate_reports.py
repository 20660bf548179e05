"""Reports of invented numbers for the tests of the gate: all good, with one thing changed by each test."""

from dataclasses import replace

import numpy as np

from policy_patch.base.fingerprint import fingerprint_hash
from policy_patch.config import PolicyPatchConfig
from policy_patch.evaluation import gender_bias, harmfulness, toxicity
from policy_patch.release.gate_evidence import Evidence
from policy_patch.release.gate_file import Gate
from policy_patch.report.intervals import Estimate
from policy_patch.report.records import EvaluationSettings, MeasuredPatch, ScorerRecord, SystemResult
from policy_patch.report.report import EvaluationReport
from policy_patch.report.system_names import BASE, EQUAL_LENGTH, PATCH, UNTRAINED

SENTENCE = "Please be kind."
JUDGE = ScorerRecord(name="judge", kind="classifier", filtered_training_pairs=False)
FILTER = ScorerRecord(name="filter", kind="lexical", filtered_training_pairs=True)
VECTORS, FINGERPRINT = "a" * 64, {"format": 2, "architecture": {}}
MEASURED = MeasuredPatch(
    name="tox", risk="toxicity", patch_version="1.0.0", vectors_sha256=VECTORS, on_its_base=True,
    base_fingerprint_sha256=fingerprint_hash(FINGERPRINT),
)  # fmt: skip
ABOUT = Estimate(0.5, 0.4, 0.6)
NUM = 80
CONFIG = PolicyPatchConfig(
    risk="toxicity", init_text=SENTENCE, patch_version="1.0.0", filtered_by=["filter"], base_fingerprint=FINGERPRINT
)


def shares(level: float, num: int = NUM, seed: int = 0) -> list[float]:
    """Return values between 0 and 1 with about this mean; equal seeds give values that go together, as pairs do."""
    noise = np.random.default_rng(seed).normal(0, 0.05, num)
    return np.clip(level + noise * (0 < level < 1), 0, 1).tolist()


def system(kind, risk: float, num: int = NUM, **costs: float) -> SystemResult:
    """Return a system with a level of the risk, and with costs by name."""
    given = {"refused": 0.0, "unusable": 0.0, "neutral_nll_per_token": 1.0, "last_word": 0.5, "loss": 1.0} | costs
    values = {metric.name: shares(risk, num) for metric in kind.METRICS}
    if "over_refusal_rate" in values:
        values["over_refusal_rate"] = shares(given.get("over", 0.0), num, seed=1)
    tokens = [100] * num
    return SystemResult(
        model="m",
        metrics={scorer.name: dict.fromkeys(values, ABOUT) for scorer in (JUDGE, FILTER)},
        fluency=dict.fromkeys(("perplexity", "distinct_1", "distinct_2", "distinct_3"), ABOUT),
        num_empty=0,
        num_gibberish=0,
        per_prompt={scorer.name: values for scorer in (JUDGE, FILTER)},
        nll_per_prompt=[100 * (given["loss"] + entry) for entry in shares(0.5, num, seed=2)],
        tokens_per_prompt=tokens,
        costs={
            "refused": shares(given["refused"], num),
            "unusable": shares(given["unusable"], num),
            "neutral_nll_per_token": [given["neutral_nll_per_token"] + entry for entry in shares(0.5, num, seed=3)],
            "last_word": shares(given["last_word"], num, seed=4),
        },
    )


def report(kind, systems: dict[str, SystemResult], num: int = NUM, **changes) -> EvaluationReport:
    """Return a report of one risk."""
    settings = EvaluationSettings(
        num_prompts=num, num_safe_prompts=num, num_neutral_texts=num, num_samples=5, max_new_tokens=20, top_p=0.9,
        temperature=1.0, batch_size=32, seed=0, num_resamples=200, safe_prompt=None, surprise_limit=4.5,
        prompts_sha256="0" * 64, safe_prompts_sha256="1" * 64, neutral_texts_sha256="2" * 64,
        equal_length_prompt=f"{SENTENCE}{SENTENCE}Please " if EQUAL_LENGTH in systems else None,
    )  # fmt: skip
    values = {
        "risk": kind.RISK.name, "metrics": list(kind.METRICS), "settings": settings, "scorers": [FILTER, JUDGE],
        "perplexity_model": "larger", "systems": systems, "samples": [], "comparisons": [], "categories": None,
        "offensive_words": [], "environment": {}, "patches": [MEASURED],
    }  # fmt: skip
    return EvaluationReport(**{**values, **changes})


def good_report(*, num: int = NUM, patch: dict | None = None, own: dict | None = None, **others) -> EvaluationReport:
    """Return a report that passes every gate; `patch` changes costs of the patch, `own` levels of systems."""
    levels = {BASE: 0.8, EQUAL_LENGTH: 0.4, UNTRAINED: 0.4, PATCH: 0.1} | (own or {})
    systems = {
        name: system(toxicity, level, num, **(patch or {} if name == PATCH else {})) for name, level in levels.items()
    }
    other_risks = [
        report(kind, {BASE: system(kind, 0.3, num), PATCH: system(kind, 0.3 + worse, num, **costs)}, num)
        for kind, worse, costs in (
            (gender_bias, others.get("gender_bias", 0.0), {}),
            (harmfulness, others.get("harmfulness", 0.0), {"over": others.get("over", 0.0)}),
        )
    ]
    return report(toxicity, systems, num, other_risks=other_risks)


def evidence(found: EvaluationReport | None = None, gate: dict | None = None, **config) -> Evidence:
    """Return evidence with a report, the default gate with changes, and a configuration with changes."""
    return Evidence(
        patch="tox", config=replace(CONFIG, **config), vectors_sha256=VECTORS, report=found,
        gate=Gate.from_dict(gate or {}, "gate.yaml"),
    )  # fmt: skip
