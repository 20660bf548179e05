"""Tests of `StudyRecipe` from Python: what it measures where nothing is said, and what is refused beforehand."""

import pytest

from policy_patch.errors import ConfigError, DataError, EvaluationError
from policy_patch.lab import lab_patch_folder
from policy_patch.recipes import StudyRecipe, models

PATCHES = [str(lab_patch_folder(risk)) for risk in ("toxicity", "harmfulness")]
FAST = {"num_prompts": 2, "num_samples": 1, "max_new_tokens": 4, "num_resamples": 20, "orders": "given"}


def test_it_runs_from_python_with_the_lab_s_prompts_and_look_alikes(tmp_path):
    told = []
    recipe = StudyRecipe(
        patches=PATCHES, **FAST, scorers_of={"toxicity": ["lab-insults"]}, output_dir=str(tmp_path),
        allow_filtering_scorers=True,
    )  # fmt: skip
    report = recipe.run(on_progress=lambda *one: told.append(one))
    assert list(report.reports) == ["toxicity", "harmfulness"]
    counts = [one.settings.num_safe_prompts for one in report.reports.values()]
    assert counts == [0, 2], "look-alikes are for risks that can over-refuse"
    assert (tmp_path / "composition.json").is_file() and told


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"patches": []}, ConfigError, r"^`patches=\[\]`: expected"),
        ({"patches": PATCHES[:1]}, EvaluationError, "1 risks; expected at least two patches and one risk"),
        ({"prompts_of": {"toxcity": "x"}}, EvaluationError, "^`prompts_of.toxcity`: .*Did you mean 'toxicity'"),
        ({"scorers_of": {"toxcity": ["x"]}}, EvaluationError, "^`scorers_of.toxcity`: .*Did you mean 'toxicity'"),
        ({"scorers_of": {"toxicity": ["lexcal"]}}, EvaluationError, "^`scorers_of.toxicity`: Scorer 'lexcal'"),
        ({"prompts_of": {"toxicity": "no.txt"}}, DataError, "^`prompts_of.toxicity`: Cannot read `no.txt`"),
        ({"base": "org/base"}, DataError, "There are no prompts for toxicity. Give them with `--prompts_of.toxicity"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_a_model_is_loaded(tmp_path, monkeypatch, values, error, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", None)  # not to be called
    with pytest.raises(error, match=message):
        StudyRecipe(**{"patches": PATCHES, **FAST, **values}).run()
