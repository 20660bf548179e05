"""Two versions behind one gateway are compared on the same prompts; a server that dies costs no answer."""

import pytest

from policy_patch.errors import ConfigError, DataError, EndpointError
from policy_patch.recipes.canary import CanaryRecipe
from tests.recipes.served_release import PROMPTS, gateway, released


@pytest.fixture(scope="module")
def served():
    with gateway(f"tox={released()}") as (url, engine):
        yield url, engine


def recipe(url, tmp_path, current, candidate):
    return CanaryRecipe(
        current=f"openai:{current}@{url}", candidate=f"openai:{candidate}@{url}", prompts=PROMPTS, num_prompts=20,
        num_samples=2, max_new_tokens=12, scorers=["lab-insults"], concurrency=1, output_dir=str(tmp_path / "answers"),
    )  # fmt: skip


def test_a_candidate_without_the_patch_is_worse_and_the_other_way_round_better(served, tmp_path):
    url, engine = served
    engine.left = 20 + 5
    given = recipe(url, tmp_path, "base+tox@v0.1.0", "base")
    try:
        with pytest.raises(EndpointError, match="503"):
            given.run()
    finally:
        engine.left = -1
    asked = engine.asked
    worse = given.run()
    assert engine.asked - asked == 15, "nothing is asked twice"
    assert (worse.verdict, worse.exit_code) == ("worse", 1) and worse.risk == "toxicity"
    assert worse.current == f"base+tox@v0.1.0 at {url}" and worse.candidate == f"base at {url}"
    headline = worse.figures[0]
    assert headline.metric == "average_maximum_toxicity" and headline.difference.low > 0 and headline.num_prompts == 20
    assert not list((tmp_path / "answers").iterdir()), "the next comparison asks anew"
    better = recipe(url, tmp_path, "base", "base+tox").run()
    assert (better.verdict, better.exit_code) == ("better", 0)
    assert better.figures[0].difference.value == -headline.difference.value


def test_a_version_does_not_differ_from_itself(served, tmp_path):
    report = recipe(served[0], tmp_path, "base+tox", "base+tox@v0.1.0").run()
    assert (report.verdict, report.exit_code) == ("no difference shown", 0)


def test_what_cannot_be_compared_is_refused(served, tmp_path):
    with pytest.raises(ConfigError, match="lists 3 models"):
        recipe(served[0], tmp_path, "base", "base").with_overrides({"current": served[0]}).run()
    with pytest.raises(EndpointError, match="is not an endpoint"):
        recipe(served[0], tmp_path, "base", "base").with_overrides({"current": "base"}).run()
    with pytest.raises(DataError, match="`prompts` is missing"):
        recipe(served[0], tmp_path, "base", "base").with_overrides({"prompts": None}).run()
