"""Tests of `EvaluateRecipe` from Python, with `recipes.perplexity`, which chooses the model that measures fluency."""

import pytest

from policy_patch.errors import ConfigError, DataError, EvaluationError, ModelLoadError, PatchNotFoundError
from policy_patch.evaluation import EvaluationReport, load_scorer
from policy_patch.lab import lab_patch_folder
from policy_patch.patch.folder import read_patch_folder, write_patch_folder
from policy_patch.recipes import EvaluateRecipe, StudyRecipe, models
from policy_patch.report.exporting import figures_csv

FAST = {"prompts": "lab:toxicity/test", "num_prompts": 3, "num_samples": 1, "max_new_tokens": 4, "num_resamples": 20}
PATCH = str(lab_patch_folder("toxicity"))


def test_it_runs_from_python_tells_of_its_stages_and_writes_the_report(tmp_path):
    told, notes = [], []
    recipe = EvaluateRecipe(
        patches=[PATCH], **FAST, output_dir=str(tmp_path), scorers=["lab-insults"], perplexity_model="lab:teacher",
        figures=["csv"],
    )  # fmt: skip
    report = recipe.run(on_progress=lambda *one: told.append(one), on_note=notes.append)
    assert EvaluationReport.load(tmp_path) == report
    assert (tmp_path / "evaluation.csv").read_text() == figures_csv(report)
    assert not (tmp_path / "evaluation.pdf").exists()
    assert (report.risk, report.perplexity_model) == ("toxicity", "lab:teacher")
    assert [scorer.name for scorer in report.scorers] == ["lab-insults"]
    assert len({stage for stage, _, _ in told}) >= 2 and notes == ["Loading lab:base ..."]
    assert recipe.measure().systems == report.systems


def test_perplexity_is_that_of_the_teacher_if_its_weights_are_here_else_of_the_base(tmp_path):
    recipe = EvaluateRecipe(patches=[PATCH], **FAST, scorers=["lab-insults"])
    assert recipe.measure().perplexity_model == "lab:base (the base)"
    assert recipe.with_overrides({"teacher": "lab:teacher"}).measure().perplexity_model == "lab:teacher (the teacher)"


def test_what_is_raised_while_a_stage_is_told_of_ends_the_run(tmp_path):
    def enough(stage, done, total):
        raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match="enough"):
        EvaluateRecipe(patches=[PATCH], **FAST, scorers=["lab-insults"], output_dir=str(tmp_path)).run(
            on_progress=enough
        )
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"patches": []}, ConfigError, r"^`patches=\[\]`: expected at least one"),
        ({"patches": ["nowhere"]}, PatchNotFoundError, "`nowhere`"),
        ({"risk": "toxcity"}, EvaluationError, "`risk='toxcity'` cannot be measured. Did you mean 'toxicity'"),
        ({"scorers": ["lexcal"]}, EvaluationError, "^`scorers`: Scorer 'lexcal' is unknown"),
        ({"filtered_by": ["lexcal"]}, EvaluationError, "^`filtered_by`: Scorer 'lexcal' is unknown"),
        ({"prompts": None}, DataError, "^`prompts` is missing: there are none for toxicity"),
        ({"prompts": "no.txt"}, DataError, "^`prompts`: Cannot read `no.txt`"),
        ({"safe_prompts": "no.txt"}, DataError, "^`safe_prompts`: Cannot read `no.txt`"),
        ({"neutral_texts": "no.txt"}, DataError, "^`neutral_texts`: Cannot read `no.txt`"),
        ({"also": {"x": "nowhere"}}, PatchNotFoundError, "^`also.x`: `nowhere` does not exist"),
        ({"lora": {"x": "nowhere"}}, PatchNotFoundError, "^`lora.x`: `nowhere` does not exist"),
        ({"lora_merged": {"x": PATCH}}, PatchNotFoundError, "^`lora_merged.x`: .* has no adapter_config.json"),
        ({"figures": ["eps"]}, ConfigError, r"^`figures=\['eps'\]`: expected"),
        ({"base": "lab:bse"}, ModelLoadError, "^`base`: There is no model"),
        ({"perplexity_model": "openai:m@http://h/v1"}, ModelLoadError, "^`perplexity_model`: .*weights are needed"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_a_model_is_loaded(tmp_path, monkeypatch, values, error, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_model", None)  # not to be called
    with pytest.raises(error, match=message):
        EvaluateRecipe(**{"patches": [PATCH], **FAST, **values}).run()


def test_a_scorer_that_filtered_the_pairs_is_refused_before_the_base_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("policy_patch.recipes.patched.load_model", None)  # not to be called
    config, vectors = read_patch_folder(PATCH)
    config.filtered_by = [load_scorer("lexical").name]
    write_patch_folder(tmp_path / "patch", config, vectors)
    with pytest.raises(EvaluationError, match="favours the patch"):
        EvaluateRecipe(**{**FAST, "patches": ["patch"], "scorers": ["lexical"]}).run()
    with pytest.raises(EvaluationError, match="favours the patch"):
        StudyRecipe(patches=["patch", "lab:gender_bias"], scorers_of={"toxicity": ["lexical"]}).run()
    with pytest.raises(TypeError):  # allowed: then the base is what comes next
        EvaluateRecipe(**{**FAST, "patches": ["patch"], "scorers": ["lexical"], "allow_filtering_scorers": True}).run()
