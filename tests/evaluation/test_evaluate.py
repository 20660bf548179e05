"""Tests of `evaluation.evaluate`: the whole evaluation on tiny models, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.answers.sampling import sample_completions
from policy_patch.data.own_task import TaskItem, task_sha256
from policy_patch.errors import DataError, EvaluationError
from policy_patch.evaluation.evaluate import evaluate_policy_patch
from policy_patch.evaluation.settings import PerplexityModel
from policy_patch.evaluation.systems import System
from policy_patch.report.report import EvaluationReport
from tests.definition import generate_by_definition
from tests.evaluation.flat_settings import grouped
from tests.tiny_models import EOS, tiny_model

PROMPTS = ["You are", "The weather is", "She", "It was", "He said", "All"]
SAMPLING = {"num_samples": 3, "max_new_tokens": 5, "batch_size": 8}


class LetterScorer:
    """Scores by the share of letters in a text: a rule that is easy to follow."""

    name = "letters"
    kind = "lexical"

    def score(self, texts):
        """Return the share of letters."""
        return [sum(letter.isalpha() for letter in text) / max(len(text), 1) for text in texts]


class LengthScorer(LetterScorer):
    """Scores by length, ten letters being the most."""

    name = "length"
    kind = "other"

    def score(self, texts):
        """Return the length over ten."""
        return [min(len(text), 10) / 10 for text in texts]


@pytest.fixture(scope="module")
def patched():
    """A patched tiny model."""
    return get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=4, init="vocab"))


@pytest.fixture(scope="module")
def judge():
    """Another tiny model."""
    return tiny_model("gpt2", seed=7)


def evaluate(patched, tokenizer, judge, **changes):
    """Evaluate with small settings."""
    given = {
        "scorers": [LetterScorer(), LengthScorer()],
        "perplexity": PerplexityModel(model=judge, name="a tiny GPT-2"),
        "num_resamples": 50,
        **SAMPLING,
        **changes,
    }
    return evaluate_policy_patch(patched, tokenizer, given.pop("prompts", PROMPTS), **grouped(**given))


@pytest.fixture(scope="module")
def report(patched, tokenizer, judge):
    """An evaluation with every kind of system."""
    return evaluate(
        patched,
        tokenizer,
        judge,
        teacher=tiny_model("llama", seed=3),
        safe_prompt="Be kind. ",
        extra_systems={"other": tiny_model("qwen2"), "told": System(tiny_model("qwen2"), instruction="Hi ")},
        filtered_by=["length"],
        allow_filtering_scorers=True,
        untrained=True,
        neutral_texts=["The weather is fine.", "All is well."],
    )


WORDS = ["weather", "day", "house", "road", "child", "river", "story", "summer", "night", "garden", "window", "letter"]


def test_systems_scorers_and_settings_are_in_the_report(report):
    assert list(report.systems) == ["base", "teacher", "safe prompt", "untrained patch", "other", "told", "patch"]
    assert [(record.label, record.kind) for record in report.scorers] == [
        ("letters", "lexical"),
        ("length (filtered the training pairs)", "other"),
    ]
    assert (report.risk, report.perplexity_model, report.settings.num_prompts) == ("toxicity", "a tiny GPT-2", 6)
    assert (report.settings.num_samples, report.settings.seed, report.settings.top_p) == (3, 0, 0.9)
    assert {"torch", "transformers", "policy-patch", "hardware"} <= set(report.environment)


class NumberingScorer(LetterScorer):
    """Scores what it is given with 0, 0.05, 0.1 and so on, so that the figures can be worked out by hand."""

    name = "numbering"

    def score(self, texts):
        """Return twentieths."""
        return [number / 20 for number in range(len(texts))]


@pytest.fixture(scope="module")
def greedy(patched, tokenizer, judge):
    """An evaluation with two answers to each prompt, both greedy because the temperature is tiny."""
    options = {"scorers": [NumberingScorer(), LetterScorer()], "safe_prompt": "Be kind. "}
    return evaluate(patched, tokenizer, judge, num_samples=2, temperature=1e-6, **options)


def test_toxicity_figures_are_those_worked_out_by_hand(greedy):
    """Six prompts, two answers: scores (0, 0.05), (0.1, 0.15), ..., (0.5, 0.55)."""
    for name in ("base", "safe prompt", "patch"):
        per_prompt = greedy.systems[name].per_prompt["numbering"]
        assert per_prompt["average_maximum_toxicity"] == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45, 0.55])
        assert per_prompt["toxic_rate"] == [0, 0, 0, 0, 0, 1]
        assert per_prompt["mean_toxicity"] == pytest.approx([0.025, 0.125, 0.225, 0.325, 0.425, 0.525])
        assert greedy.estimate(name, "average_maximum_toxicity").value == pytest.approx(0.3)
        assert greedy.estimate(name, "toxic_rate").value == pytest.approx(1 / 6)
        assert greedy.estimate(name, "mean_toxicity").value == pytest.approx(0.275)


def nll_of(model, ids):
    """Return the negative log-likelihood of all ids but the first, in nats, the slow way."""
    with torch.no_grad():
        log_probabilities = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(log_probabilities[at - 1, ids[at]].item() for at in range(1, len(ids)))


@pytest.mark.parametrize(("name", "instruction"), [("base", ""), ("safe prompt", "Be kind. "), ("patch", "")])
def test_figures_of_greedy_answers_are_those_of_plain_loops(greedy, patched, tokenizer, judge, name, instruction):
    """The likelihood is that of the answer after the prompt alone, also where an instruction came before it."""
    vectors = patched.patches["default"].detach() if name == "patch" else torch.zeros(0, 32)
    texts, nll, tokens, letters, diversity = [], 0.0, 0, [], []
    for prompt in PROMPTS:
        row = tokenizer(instruction + prompt)["input_ids"]
        with torch.no_grad():
            ids = generate_by_definition(patched.get_base_model(), vectors, row, SAMPLING["max_new_tokens"])
        text = tokenizer.decode(ids[: ids.index(EOS)] if EOS in ids else ids, skip_special_tokens=True)
        whole, alone = tokenizer(prompt + text)["input_ids"], tokenizer(prompt)["input_ids"]
        nll += nll_of(judge, whole) - nll_of(judge, alone)
        tokens += len(whole) - len(alone)
        letters.append(sum(letter.isalpha() for letter in text) / max(len(text), 1))
        words = text.split()
        diversity.append(len(set(words)) / (2 * len(words)) if words else 0.0)  # two equal answers
        texts.append(text)
    found = greedy.systems[name]
    assert [sample.first for sample in greedy.samples if sample.system == name] == texts[:5]
    assert found.per_prompt["letters"]["average_maximum_toxicity"] == pytest.approx(letters)
    assert greedy.estimate(name, "distinct_1").value == pytest.approx(sum(diversity) / 6)
    assert greedy.estimate(name, "perplexity").value == pytest.approx(math.exp(nll / tokens), rel=1e-4)
    assert found.num_empty == 2 * texts.count("")
    assert len(set(texts)) > 1 and tokens > 6, "there is something to measure"


def test_samples_of_a_few_prompts_are_kept_side_by_side(report, patched, tokenizer):
    assert [sample.prompt for sample in report.samples] == [prompt for prompt in PROMPTS[:5] for _ in report.systems]
    completions = sample_completions(patched, tokenizer, PROMPTS, **SAMPLING)
    shown = [sample for sample in report.samples if sample.system == "patch"][1]
    scores = LetterScorer().score(completions[1])
    assert (shown.first, shown.first_score) == (completions[1][0], scores[0])
    assert shown.worst_score == max(scores)
    assert report.offensive_words and min(LetterScorer().score(report.offensive_words)) >= 0.5


def test_a_scorer_without_a_kind_will_do(patched, tokenizer, judge):
    class Kindless:
        name = "kindless"

        def score(self, texts):
            return [0.0] * len(texts)

    report = evaluate(patched, tokenizer, judge, scorers=[Kindless()])
    assert report.scorer().kind == "custom"
    assert report.rows()[1]["change"] == "n/a"


def test_the_report_is_saved_and_read_back(report, tmp_path):
    report.save(tmp_path)
    assert EvaluationReport.load(tmp_path) == report


def test_the_same_seed_gives_the_same_report_and_another_batch_size_too(patched, tokenizer, judge):
    first, second = (evaluate(patched, tokenizer, judge, batch_size=size) for size in (8, 5))
    for name in ("base", "patch"):
        assert second.systems[name].metrics == first.systems[name].metrics
        assert second.systems[name].nll_per_prompt == pytest.approx(first.systems[name].nll_per_prompt, rel=1e-5)
    other = evaluate(patched, tokenizer, judge, seed=1)
    assert other.systems["base"].metrics != first.systems["base"].metrics


def test_models_are_left_as_they_were(patched, tokenizer, judge):
    patched.train()
    torch.manual_seed(0)
    before, active = torch.get_rng_state(), patched.active_patches
    evaluate(patched, tokenizer, judge)
    assert patched.training and patched.get_base_model().training
    assert patched.active_patches == active
    assert torch.equal(torch.get_rng_state(), before)
    patched.eval()


def test_progress_is_told_by_stage(patched, tokenizer, judge):
    told = []
    evaluate(patched, tokenizer, judge, on_progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages[:4] == ["sampling: base", "perplexity: base", "scoring by letters: base", "scoring by length: base"]
    assert stages[4] == "sampling: patch"
    assert all(done <= total for _, done, total in told)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"risk": "toxcity"}, "`risk='toxcity'` cannot be measured. Did you mean 'toxicity'"),
        ({"prompts": []}, "`prompts` is empty or a single text"),
        ({"prompts": "You are"}, "`prompts` is empty or a single text"),
        ({"scorers": []}, "`scorers` is empty"),
        ({"scorers": ["lexical"]}, "`scorers` has a str; a scorer needs `name` and `score"),
        ({"scorers": [LetterScorer(), LetterScorer()]}, "`scorers` has two with the same name"),
        ({"perplexity": "a model"}, "`perplexity` is a str; expected `PerplexityModel"),
        ({"filtered_by": ["letters"]}, "`letters` filtered the pairs that the patch was trained on"),
        ({"categories": ["a"]}, "6 prompts and 1 categories"),
        ({"safe_prompts": "x"}, "`safe_prompts='x'` is a text; expected a list"),
        ({"safe_prompts": ["a", "\ud800"]}, r"`safe_prompts\[1\]` has half a character"),
        ({"neutral_texts": [None]}, r"`neutral_texts\[0\]` is a NoneType"),
        ({"filtered_by": "letters"}, "`filtered_by='letters'` is a text; expected a list"),
        ({"extra_systems": {"base": None}}, "`extra_systems` has the name 'base'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_sampled(patched, tokenizer, judge, changes, message):
    def fail(*step):
        raise AssertionError("it has started")

    with pytest.raises(EvaluationError, match=message):
        evaluate(patched, tokenizer, judge, on_progress=fail, **changes)


def test_vectors_that_leave_no_room_are_refused_before_anything_is_sampled(tokenizer, judge):
    long = get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=250, init="vocab"))
    told = []
    with pytest.raises(DataError, match=r"250 vectors leave no room.* 256 positions. Use at most 249 vectors"):
        evaluate(long, tokenizer, judge, on_progress=lambda *one: told.append(one))
    assert told == []


@pytest.mark.parametrize("scores", [[0.5], [2.0] * 18, [float("nan")] * 18])
def test_a_scorer_without_probabilities_is_refused(patched, tokenizer, judge, scores):
    class Broken(LetterScorer):
        def score(self, texts):
            return scores

    with pytest.raises(EvaluationError, match=r"Scorer 'letters' returned .* expected one probability per text"):
        evaluate(patched, tokenizer, judge, scorers=[Broken()])


def test_a_task_of_ones_own_is_answered_by_the_likeliest_choice(patched, tokenizer, judge):
    items = [TaskItem(f"The {word} is", ("fine", "kind", "cold"), number % 3) for number, word in enumerate(WORDS)]
    found = evaluate(patched, tokenizer, judge, own_task=items, safe_prompt="Be kind. ", prompts=PROMPTS[:2])
    assert found.settings.own_task_sha256 == task_sha256(items)
    base = patched.get_base_model()
    for name, before in (("base", ""), ("safe prompt", "Be kind. ")):
        right = []
        for item in items:
            start = tokenizer(before + item.prompt).input_ids
            ids = [tokenizer(f"{before}{item.prompt} {choice}").input_ids for choice in item.choices]
            nll = [nll_of(base, one) - nll_of(base, start) for one in ids]
            right.append(float(np.argmin(nll) == item.answer))
        assert found.systems[name].costs["own_task"] == right, name
        assert found.systems[name].fluency["own_task_accuracy"].value == pytest.approx(np.mean(right))
    assert 0 < sum(found.systems["base"].costs["own_task"]) < len(items), "a control that always agrees proves nothing"
    assert len(found.systems["patch"].costs["own_task"]) == len(items)
    assert "own task" in found.rows("letters")[0]
