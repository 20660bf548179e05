"""The rule of drift is never too bold: its p-values bound the exact ones, and many looks without drift stay silent."""

import numpy as np
import pytest
from scipy import stats

from policy_patch.errors import ConfigError
from policy_patch.release.drift_rule import DriftRule, sign_flip_p_value


def exact(differences):
    """Return the p-value of the one-sided sign-flip test by all signs, ties counted."""
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    sums = np.abs(differences) @ signs
    return float((sums >= sum(differences) - 1e-12).mean())


def test_the_p_value_is_never_below_the_exact_one():
    rng, ratios = np.random.default_rng(0), []
    for _ in range(300):
        size = int(rng.integers(1, 11))
        differences = rng.normal(0.4, 1, size) * rng.choice([1, 1, 5], size)
        if differences.sum() > 0:
            ratios.append(sign_flip_p_value(differences) / exact(differences))
    assert len(ratios) > 150 and min(ratios) >= 1 - 1e-9
    normal = [stats.norm.sf(d.sum() / np.sqrt((d**2).sum())) / exact(d) for d in (np.ones(2), np.ones(3))]
    assert min(normal) < 1, "control: the plain normal test states too small a p-value"


def test_the_bound_is_reached():
    assert sign_flip_p_value([1.0, 1.0]) == pytest.approx(0.25) == pytest.approx(exact(np.ones(2)))


def test_what_is_not_worse_has_p_value_one_and_missing_values_count_for_nothing():
    assert sign_flip_p_value([]) == sign_flip_p_value([0.0] * 5) == sign_flip_p_value([-1.0, 0.5]) == 1.0
    assert sign_flip_p_value([0.3, np.nan, 0.3]) == sign_flip_p_value([0.3, 0.3]) < 1


def test_the_limit_is_bonferronis_and_the_fewest_prompts_can_reach_it():
    rule = DriftRule(alpha=0.05, looks=1000)
    assert rule.limit(3) == pytest.approx(0.05 / 6000)
    fewest = rule.fewest_prompts(3)
    assert sign_flip_p_value([1.0] * fewest) <= rule.limit(3) < sign_flip_p_value([1.0] * (fewest - 1))
    assert "1000 looks, 3 figures" in rule.in_words(3)


@pytest.mark.parametrize("values", [{"alpha": 0.0}, {"alpha": 1.0}, {"looks": 0}])
def test_impossible_rules_are_refused(values):
    with pytest.raises(ConfigError, match="expected an `alpha` above 0 and below 1"):
        DriftRule(**values)
