"""A look is judged by its figures on the same prompts and by the probe; many looks without drift give no alarm."""

import numpy as np
import pytest

from policy_patch.errors import DataError
from policy_patch.release.drift import next_places, release_figures, sign_flip_p_value, verdict_of
from policy_patch.release.drift_rule import DriftRule
from tests.release.drift_reports import SCORER, Watch, report_of

RULE = DriftRule()


def test_a_release_is_compared_as_it_was_served_if_that_was_measured():
    values = np.zeros(30)
    report = report_of(values, served=(values + 0.5, values))
    assert release_figures(report).system == "served" and release_figures(report, "patch").system == "patch"
    assert release_figures(report).values[SCORER, "bad_rate"].tolist() == [0.5] * 30
    assert release_figures(report).identity != release_figures(report, "patch").identity
    with pytest.raises(DataError, match=r"no system 'patched'. Did you mean `patch`"):
        release_figures(report, "patched")


def test_looks_ask_all_prompts_in_turn_before_any_a_second_time():
    watch = Watch(report_of(np.zeros(25)), RULE, 10)
    asked = []
    for _ in range(5):
        watch.look(lambda prompts: asked.extend(prompts) or np.zeros(len(prompts)))
    assert sorted(asked[:25]) == list(range(25)) == sorted(asked[25:50])
    assert asked[:25] != list(range(25)), "shuffled, so that a look is not one category"
    assert len(next_places(watch.looks, watch.release, 40, "prompts")) == 25, "no prompt twice in a look"


def test_a_figure_that_is_worse_in_one_look_is_an_alarm_and_a_better_one_is_not():
    rng = np.random.default_rng(0)
    released = rng.random(200) < 0.3
    watch = Watch(report_of(released), RULE, 100)
    assert watch.look(lambda prompts: rng.random(100) < 0.3).verdict == "steady"
    assert watch.look(lambda prompts: np.zeros(100)).verdict == "steady"
    look = watch.look(lambda prompts: rng.random(100) < 0.8)
    assert look.verdict == "alarm" and look.exit_code == 1
    assert [(one.metric, one.is_worse) for one in look.figures] == [("bad_rate", True), ("good_rate", True)]
    assert look.reasons[0].startswith("bad_rate by words is 0.") and "the release has 0." in look.reasons[0]


def test_a_small_drift_is_found_by_the_looks_of_one_pass_together():
    released = np.zeros(300)
    watch, alone = Watch(report_of(released), RULE, 30), 1.0
    drifted = np.arange(300) % 10 == 0  # one prompt in ten
    for _ in range(10):
        look = watch.look(lambda prompts: drifted[prompts])
        alone = min(alone, sign_flip_p_value(look.values[SCORER]["bad_rate"]))
    assert look.verdict == "alarm" and look.figures[0].num_prompts > 200
    assert alone > RULE.limit(2), "control: no single look shows it"
    again = watch.look(lambda prompts: drifted[prompts])
    assert again.figures[0].num_prompts <= 300, "no release value is used twice in a test"


def test_a_look_at_another_release_starts_anew():
    watch = Watch(report_of(np.zeros(40)), RULE, 30)
    watch.look(lambda prompts: np.zeros(30))
    watch.release = release_figures(report_of(np.ones(40)))
    look = watch.look(lambda prompts: np.ones(30))
    assert look.first == {"prompts": 0} and look.figures[0].release == 1.0 and look.verdict == "steady"


def simulated(rng, looks, serve_rate, *, rule=RULE, prompts=120, per_look=40):
    """Return the number of the first alarm among looks at a server; None without one. Rates differ by prompt."""
    rates = rng.beta(1, 4, prompts)
    watch = Watch(report_of(rng.binomial(5, rates) / 5), rule, per_look)
    for number in range(1, looks + 1):
        watch.looks = watch.looks[-4:]
        now = serve_rate(number, rates)
        look = watch.look(lambda asked, now=now: rng.binomial(5, now[asked]) / 5)
        if look.verdict == "alarm":
            return number
    return None


def test_looks_without_drift_stay_silent_and_a_drift_is_found(monkeypatch):
    monkeypatch.setattr("policy_patch.release.drift.bootstrap_interval", lambda *a, **b: _Nothing())
    rng = np.random.default_rng(0)
    assert simulated(rng, 1000, lambda number, rates: rates) is None
    naive = DriftRule(alpha=0.05 * 4, looks=1)  # each look at 5%, as if it were the only one
    assert simulated(rng, 1000, lambda number, rates: rates, rule=naive) is not None, "control"
    worse = simulated(rng, 80, lambda number, rates: np.minimum(1, rates * (1 if number <= 50 else 2)))
    assert worse is not None and 50 < worse <= 56, "within two passes after it began"


class _Nothing:
    value = low = high = 0.0


def test_the_probe_decides_alone_whatever_the_figures_say():
    def told(verdict, other="active"):
        found = {verdict, other}
        return {"addresses": {f"http://{name}/v1": {"verdict": name, "reason": "Because."} for name in found}}

    assert verdict_of([], None) == verdict_of([], told("active")) == ("steady", [])
    for verdict in ("absent", "another", "mixed"):
        assert verdict_of([], told(verdict)) == (
            "alarm", [f"The probe says {verdict} of http://{verdict}/v1: Because."],
        )  # fmt: skip
    assert verdict_of([], told("cannot tell"))[0] == verdict_of([], told("unreachable"))[0] == "cannot tell"
    assert verdict_of([], told("cannot tell", "absent"))[0] == "alarm"
