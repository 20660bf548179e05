"""Evaluation of a served patch, and pairs from a served base and teacher, while one of two replicas dies."""

import pytest

from policy_patch import PolicyPatchModel
from policy_patch.data import load_preference_pairs
from policy_patch.errors import ConfigError, EndpointError, ServingError
from policy_patch.hub.named_patch import load_named_patch
from policy_patch.lab import lab_patch_folder, load_lab_base, load_lab_teacher, load_lab_tokenizer
from policy_patch.recipes import EvaluateRecipe, PairsRecipe, StudyRecipe
from tests.recipes.sampling_server import SamplingServer, serving

PATCH = str(lab_patch_folder("toxicity"))
FAST = {
    "prompts": "lab:toxicity/test", "num_prompts": 6, "num_samples": 1, "max_new_tokens": 6, "temperature": 1e-6,
    "num_resamples": 20, "scorers": ["lab-insults"],
}  # fmt: skip


def test_a_served_patch_is_measured_beside_the_patch_while_a_replica_dies(tmp_path):
    tokenizer = load_lab_tokenizer()
    model = PolicyPatchModel.from_pretrained(load_lab_base(), PATCH, tokenizer=tokenizer).eval()
    with (
        serving(SamplingServer({"tox": model}, tokenizer, left=2)) as dying,
        serving(SamplingServer({"tox": model, "base": model.get_base_model()}, tokenizer)) as other,
    ):
        recipe = EvaluateRecipe(
            patches=[PATCH], **FAST, output_dir=str(tmp_path), endpoint=f"openai:tox@{dying.url},{other.url}"
        )
        report = recipe.run()
        asked = dying.asked + other.asked
        assert (len(dying.asked), len(other.asked)) == (2, 4) and len(set(asked)) == 6, "nothing lost, nothing twice"
        served, patch, base = (report.systems[name] for name in ("served", "patch", "base"))
        assert list(report.systems)[-1] == "patch" and served.model == f"tox at {dying.url}" != patch.model
        assert served.per_prompt == patch.per_prompt and served.nll_per_prompt == patch.nll_per_prompt
        assert served.nll_per_prompt != base.nll_per_prompt, "control: the base answers otherwise"
        assert {(one.system, one.other) for one in report.comparisons} >= {("served", "base"), ("patch", "served")}
        assert "| served " in (tmp_path / "evaluation.md").read_text()
        unpatched = recipe.with_overrides({"endpoint": f"openai:base@{other.url}", "output_dir": str(tmp_path / "b")})
        assert unpatched.measure().systems["served"].nll_per_prompt == base.nll_per_prompt, "without the patch it shows"


def test_every_stack_of_a_study_is_measured_as_the_gateway_serves_it(tmp_path):
    tokenizer, folders = load_lab_tokenizer(), [str(lab_patch_folder(risk)) for risk in ("toxicity", "gender_bias")]
    base = load_lab_base()
    stacks = {"base+t@v1": [0], "base+b@v1": [1], "base+t@v1+b@v1": [0, 1]}
    models = {
        name: PolicyPatchModel.from_pretrained(base, [folders[one] for one in own], tokenizer=tokenizer).eval()
        for name, own in stacks.items()
    }
    hashes = [load_named_patch(folder).sha256 for folder in folders]
    listed = {"base+t@v1": hashes[:1], "base+b@v1": hashes[1:]}
    recipe = StudyRecipe(
        patches=folders, orders="given", output_dir=str(tmp_path), prompts_of={"toxicity": "lab:toxicity/test"},
        scorers_of={"toxicity": ["lab-insults"]}, num_prompts=4, num_samples=1, max_new_tokens=6, temperature=1e-6,
        num_resamples=20, allow_filtering_scorers=True,
    )  # fmt: skip
    with serving(SamplingServer(models, tokenizer, listed=listed)) as server:
        report = recipe.with_overrides({"endpoint": f"openai:base@{server.url}"}).run()
        asked = {model for model, _, _ in server.asked}
    assert asked == set(stacks)
    found = report.reports["toxicity"].systems
    local = ["toxicity", "gender_bias", "toxicity + gender_bias"]
    for name in local:
        assert found[f"{name}, served"].nll_per_prompt == found[name].nll_per_prompt
    assert len({str(found[name].nll_per_prompt) for name in (*local, "base")}) == 4, "control"
    assert "toxicity + gender_bias, served" in (tmp_path / "composition.md").read_text()
    with serving(SamplingServer(models, tokenizer, listed={"base+t@v1": hashes[:1]})) as server:
        with pytest.raises(ServingError, match="does not serve the patch `gender_bias`"):
            recipe.with_overrides({"endpoint": f"openai:base@{server.url}"}).run()
        assert not server.asked


def test_pairs_of_a_served_base_and_teacher_are_the_same_while_a_replica_dies(tmp_path):
    tokenizer, models = load_lab_tokenizer(), {"base": load_lab_base(), "teacher": load_lab_teacher()}
    settings = {
        "prompts": "lab:toxicity/train", "num_prompts": 6, "num_samples": 4, "max_new_tokens": 12,
        "scorer": "lab-insults",
    }  # fmt: skip

    def pairs(output, *servers):
        urls = ",".join(server.url for server in servers)
        names = {name: f"openai:{name}@{urls}" for name in ("base", "teacher")}
        PairsRecipe(**names, **settings, output=str(tmp_path / output)).run()
        return load_preference_pairs(str(tmp_path / output)).to_list()

    with (
        serving(SamplingServer(models, tokenizer, left=3)) as dying,
        serving(SamplingServer(models, tokenizer)) as other,
    ):
        found = pairs("one.jsonl", dying, other)
        asked = dying.asked + other.asked
        assert len(dying.asked) == 3 and len(asked) == len(set(asked)) == 12
        assert not list(tmp_path.rglob("arrived-*"))
        other.asked.clear()
        assert pairs("two.jsonl", other) == found and len(other.asked) == 12


def test_what_is_no_served_model_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match=r"`endpoint='lab:base'` is no served model"):
        EvaluateRecipe(patches=[PATCH], **FAST, endpoint="lab:base").run()
    with pytest.raises(ConfigError, match=r"`endpoint='lab:base'` is no served model"):
        StudyRecipe(patches=[PATCH, PATCH], endpoint="lab:base").run()
    with pytest.raises(EndpointError, match="a user name, a password or a query"):
        EvaluateRecipe(patches=[PATCH], **FAST, endpoint="openai:m@http://a/v1,http://me:pw@b/v1").run()
    with pytest.raises(ConfigError, match="which another system is called"):
        EvaluateRecipe(patches=[PATCH], **FAST, also={"served": PATCH}, endpoint="openai:m@http://a/v1").run()
