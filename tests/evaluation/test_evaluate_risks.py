"""Tests of an evaluation of gender bias and of harmfulness, end to end on tiny models, stopped and gone on with."""

import numpy as np
import pytest

from policy_patch import PolicyPatchConfig, PolicyPatchModel, get_policy_patch_model
from policy_patch.answers.answering import TransformersAnswers
from policy_patch.answers.perplexity import conditional_nll
from policy_patch.answers.sampling import Answer, sample_completions
from policy_patch.errors import DataError, EvaluationError
from policy_patch.evaluation import GenderWords, PerplexityModel, System, evaluate_policy_patch
from policy_patch.evaluation.gender_bias import gender_attribute_score, gender_logits_difference
from policy_patch.evaluation.gibberish import surprise_limit
from policy_patch.evaluation.judges import RefusalPhrases
from policy_patch.evaluation.word_probabilities import word_log_probabilities
from tests.evaluation.flat_settings import grouped
from tests.tiny_models import tiny_model

PROMPTS = ["You are", "The weather is", "She", "It was"]
LOOK_ALIKES = ["He said", "All"]
WORDS = GenderWords("two", (("a", "e"), ("she", "he")))  # tiny models write letters, hardly words
SAMPLING = {"num_samples": 3, "max_new_tokens": 5, "top_p": 0.9, "temperature": 1.0}


@pytest.fixture(scope="module")
def patched():
    return get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=4, init="vocab"))


def evaluate(patched, tokenizer, **changes):
    given = {
        "perplexity": PerplexityModel(model=tiny_model("gpt2", seed=7), name="a tiny GPT-2"), "num_resamples": 50,
        "batch_size": 8,
        "risk": "harmfulness", "scorers": [RefusalPhrases()], "safe_prompts": LOOK_ALIKES, **SAMPLING, **changes,
    }  # fmt: skip
    return evaluate_policy_patch(patched, tokenizer, given.pop("prompts", PROMPTS), **grouped(**given))


def test_gender_bias_is_that_of_the_answers_and_of_the_next_words(patched, tokenizer):
    report = evaluate(patched, tokenizer, risk="gender_bias", scorers=[WORDS], safe_prompts=())
    for name, model in (("base", patched.get_base_model()), ("patch", patched)):
        texts = sample_completions(model, tokenizer, PROMPTS, batch_size=8, **SAMPLING)
        found = word_log_probabilities(model, tokenizer, PROMPTS, [*WORDS.female, *WORDS.male])
        gas, gld = gender_attribute_score(texts, WORDS), gender_logits_difference(found[:, :2], found[:, 2:])
        assert report.estimate(name, "gender_attribute_score").value == pytest.approx(gas)
        assert report.estimate(name, "gender_logits_difference").value == pytest.approx(gld)
    assert report.headline.title == "GAS"
    assert {found.metric for found in report.comparisons} >= {"gender_gap", "nll_per_token"}


def test_next_words_and_neutral_text_come_behind_the_instruction(patched, tokenizer):
    report = evaluate(
        patched, tokenizer, risk="gender_bias", scorers=[WORDS], safe_prompts=(), safe_prompt="Be kind. ",
        neutral_texts=["All is well."],
    )  # fmt: skip
    base = patched.get_base_model()
    found = word_log_probabilities(
        base, tokenizer, ["Be kind. " + prompt for prompt in PROMPTS], ["a", "she", "e", "he"]
    )
    gld = gender_logits_difference(found[:, :2], found[:, 2:])
    assert report.estimate("safe prompt", "gender_logits_difference").value == pytest.approx(gld)
    nll, tokens = conditional_nll(base, tokenizer, ["Be kind. "], ["All is well."])
    expected = np.exp(nll.sum() / tokens.sum())
    assert report.estimate("safe prompt", "neutral_perplexity").value == pytest.approx(expected)


def test_the_limit_of_gibberish_is_that_of_the_base_and_empty_answers_are_no_gibberish(patched, tokenizer):
    class Served:
        """Writes nothing, repeats itself, and is plain."""

        name = "served"

        def answer(self, prompts, sampling, **more):
            return [[Answer("", True), Answer("no " * 20, True), Answer("Sure.", True)] for _ in prompts]

    report = evaluate(patched, tokenizer, extra_systems={"hosted": Served()})
    written = sample_completions(patched.get_base_model(), tokenizer, PROMPTS, batch_size=8, **SAMPLING)
    texts = [text for samples in written for text in samples]
    judged = conditional_nll(tiny_model("gpt2", seed=7), tokenizer, np.repeat(PROMPTS, 3).tolist(), texts)
    assert report.settings.surprise_limit == pytest.approx(surprise_limit(*judged), rel=1e-5)
    found = report.systems["hosted"]
    assert (found.num_empty, found.num_gibberish) == (len(PROMPTS), len(PROMPTS))
    one, two = (
        report.systems[name].per_prompt["refusal phrases"]["attack_success_rate"] for name in ("patch", "hosted")
    )
    (difference,) = [
        entry.difference.value for entry in report.comparisons
        if (entry.system, entry.other, entry.metric) == ("patch", "hosted", "attack_success_rate")
    ]  # fmt: skip
    assert difference == pytest.approx(np.mean(one) - np.mean(two))


def test_what_only_answers_has_no_next_words_and_no_neutral_text(patched, tokenizer):
    class Served:
        """A model whose weights nobody sees."""

        name = "served"

        def answer(self, prompts, sampling, **more):
            return TransformersAnswers(tiny_model("qwen2"), tokenizer).answer(prompts, sampling, **more)

    report = evaluate(
        patched, tokenizer, risk="gender_bias", scorers=[WORDS], safe_prompts=(), extra_systems={"hosted": Served()},
        neutral_texts=["All is well."],
    )  # fmt: skip
    assert list(report.systems["hosted"].metrics["two"]) == ["gender_attribute_score"]
    assert "neutral_perplexity" not in report.systems["hosted"].fluency
    row = next(row for row in report.rows() if row["system"] == "hosted")
    assert (row["GLD"], row["of neutral text"]) == ("n/a", "n/a")


class Thinking:
    """Answers each prompt with thoughts first, and with thoughts alone where the prompt begins with S."""

    name = "thinking"

    def __init__(self, answer):
        self.text = f"<think>I cannot see a problem, he said.</think>\n{answer}"

    def answer(self, prompts, sampling, **more):
        cut = "<think>I cannot see"
        texts = [cut if prompt.startswith("S") else self.text for prompt in prompts]
        return [[Answer(text, text != cut)] * sampling.num_samples for text in texts]


def test_answers_count_and_thoughts_do_not(patched, tokenizer, caplog):
    seen = []

    class Seeing(RefusalPhrases):
        def judge(self, prompts, answers):
            seen.extend(answers)
            return super().judge(prompts, answers)

    systems = {"helps": Thinking("Take a crowbar."), "refuses": Thinking("I can not help with that.")}
    plain = {"plain": SaysAlways("Take a crowbar.")}
    with caplog.at_level("WARNING"):
        report = evaluate(patched, tokenizer, scorers=[Seeing()], extra_systems={**systems, **plain})
    assert not any("<think>" in answer for answer in seen)
    # One of the four prompts has thoughts alone: neither complied nor refused.
    figures = {
        name: [
            report.estimate(name, metric).value for metric in ("attack_success_rate", "refusal_rate", "unusable_rate")
        ]
        for name in systems
    }
    assert figures == {"helps": [0.75, 0.0, 0.25], "refuses": [0.0, 0.75, 0.25]}
    assert [report.systems[name].num_empty for name in systems] == [3, 3]
    assert report.estimate("helps", "over_refusal_rate").value == 0.0
    assert report.estimate("refuses", "over_refusal_rate").value == 1.0
    shown = [sample.first for sample in report.samples if sample.system == "helps"]
    assert set(shown) == {"Take a crowbar.", ""}
    helps, plain = (np.delete(report.systems[name].nll_per_prompt, 2) for name in ("helps", "plain"))
    assert np.allclose(helps, plain), "perplexity is that of the answer"
    assert "3 of 12 texts of 'helps' are thoughts without an answer" in caplog.text
    assert "they were cut at `max_new_tokens=5`" in caplog.text


class SaysAlways(Thinking):
    """Answers each prompt with one text."""

    name = "plain"

    def answer(self, prompts, sampling, **more):
        return [[Answer(self.text.partition("\n")[2], True)] * sampling.num_samples for _ in prompts]


def test_harmfulness_has_a_figure_for_each_prompt_and_each_look_alike(patched, tokenizer):
    report = evaluate(patched, tokenizer)
    found = report.systems["patch"].per_prompt["refusal phrases"]
    assert len(found["attack_success_rate"]) == len(PROMPTS) and len(found["over_refusal_rate"]) == len(LOOK_ALIKES)
    parts = [np.array(found[name]) for name in ("attack_success_rate", "refusal_rate", "unusable_rate")]
    assert np.sum(parts, axis=0) == pytest.approx(np.ones(len(PROMPTS))), "success, refusal, or neither"
    assert report.settings.num_safe_prompts == 2
    assert "2 harmless look-alikes" in report.markdown()


def test_harmfulness_is_asked_for_the_likeliest_answer_unless_told_otherwise(patched, tokenizer):
    asked = dict.fromkeys(("num_samples", "max_new_tokens", "top_p", "temperature"))
    settings = evaluate(patched, tokenizer, **{**asked, "max_new_tokens": 4}).settings
    assert (settings.num_samples, settings.top_p) == (1, 1.0) and settings.temperature < 1e-3


def test_categories_are_in_the_report(patched, tokenizer):
    text = evaluate(patched, tokenizer, categories=["x", "y", "x", "y"]).markdown()
    assert "## By category: ASR" in text and "| x | 2 |" in text


def test_one_seed_gives_one_report_stopped_or_not(patched, tokenizer, tmp_path):
    expected = evaluate(patched, tokenizer).to_json()
    assert evaluate(patched, tokenizer).to_json() == expected

    def stop(stage, done, total):
        if stage == "sampling: patch" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(patched, tokenizer, work_dir=tmp_path, on_progress=stop)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    parts = {path.parent.name.split("-")[0] for path in before}
    assert parts == {"prompts", "look", "perplexity"} and len(before) == 4
    assert len({path.parts[-3] for path in before}) == 1  # of the base alone: what was under way is asked again
    assert evaluate(patched, tokenizer, work_dir=tmp_path).to_json() == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before


class Asked:
    """A judge that counts what it is asked."""

    name, kind, identity = "asked", "custom", "asked, version 1"

    def __init__(self):
        self.count = 0

    def judge(self, prompts, answers):
        self.count += len(answers)
        return [len(answer) % 3 / 2 for answer in answers]


def test_a_judge_with_an_identity_is_not_asked_twice_and_a_changed_one_is(patched, tokenizer, tmp_path):
    expected = evaluate(patched, tokenizer, scorers=[Asked()]).to_json()

    def stop(stage, done, total):
        if stage == "sampling: patch" and done == total:
            raise KeyboardInterrupt

    first, second, third, changed = Asked(), Asked(), Asked(), Asked()
    with pytest.raises(KeyboardInterrupt):
        evaluate(patched, tokenizer, scorers=[first], work_dir=tmp_path, on_progress=stop)
    assert evaluate(patched, tokenizer, scorers=[second], work_dir=tmp_path).to_json() == expected
    assert evaluate(patched, tokenizer, scorers=[third], work_dir=tmp_path).to_json() == expected
    changed.identity = "asked, version 2"
    evaluate(patched, tokenizer, scorers=[changed], work_dir=tmp_path)
    assert [judge.count for judge in (first, second, third, changed)] == [12, 12, 0, 24]


def test_another_perplexity_model_reads_the_kept_answers_anew(patched, tokenizer, tmp_path):
    evaluate(patched, tokenizer, work_dir=tmp_path)
    other = {"perplexity": PerplexityModel(model=tiny_model("gpt2", seed=8), name="a tiny GPT-2")}
    again = evaluate(patched, tokenizer, work_dir=tmp_path, **other).to_json()
    assert again == evaluate(patched, tokenizer, **other).to_json() != evaluate(patched, tokenizer).to_json()


def test_next_words_and_neutral_text_are_read_once(patched, tokenizer, tmp_path):
    asked = {"risk": "gender_bias", "scorers": [WORDS], "safe_prompts": (), "neutral_texts": ["All is well.", "Yes."]}
    expected = evaluate(patched, tokenizer, **asked).to_json()
    assert evaluate(patched, tokenizer, work_dir=tmp_path, **asked).to_json() == expected
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    parts = [path.parent.name.rpartition("-")[0] for path in files]
    assert sum(part.startswith("next-words") for part in parts) == 2
    assert sum(part.startswith("neutral-text") for part in parts) == 2
    assert evaluate(patched, tokenizer, work_dir=tmp_path, **asked).to_json() == expected
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_folder_of_another_evaluation_is_refused(patched, tokenizer, tmp_path):
    evaluate(patched, tokenizer, work_dir=tmp_path)
    with pytest.raises(DataError, match="holds answers that were sampled with other settings: `seed` was 0, is now 1"):
        evaluate(patched, tokenizer, work_dir=tmp_path, seed=1)


def test_what_filtered_the_pairs_of_the_patch_is_refused_and_marked_if_allowed(tokenizer):
    config = PolicyPatchConfig(num_virtual_tokens=2, init="vocab", filtered_by=["one + refusal phrases"])
    model = get_policy_patch_model(tiny_model(), config)
    with pytest.raises(EvaluationError, match="`refusal phrases` filtered the pairs that the patch was trained on"):
        evaluate(model, tokenizer)
    report = evaluate(model, tokenizer, allow_filtering_scorers=True)
    assert report.scorer().label == "refusal phrases (filtered the training pairs)"


def test_a_served_system_takes_no_instruction(patched, tokenizer):
    class Served:
        name = "served"

        def answer(self, *args, **kwargs):
            raise AssertionError

    with pytest.raises(EvaluationError, match="`instruction` cannot be used with a system that is served elsewhere"):
        evaluate(patched, tokenizer, extra_systems={"told": System(Served(), instruction="Be kind. ")})


def test_a_combined_list_is_refused_where_a_part_of_it_filtered(tokenizer):
    config = PolicyPatchConfig(num_virtual_tokens=2, init="vocab", filtered_by=["two"])
    model = get_policy_patch_model(tiny_model(), config)
    both = GenderWords("one + two", WORDS.pairs)
    with pytest.raises(EvaluationError, match=r"`one \+ two` filtered the pairs"):
        evaluate(model, tokenizer, risk="gender_bias", scorers=[both], safe_prompts=())


def test_what_filtered_for_a_patch_that_only_a_stack_makes_active_counts(tokenizer):
    model = get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=2, init="vocab"))
    model.add_patch("b", PolicyPatchConfig(num_virtual_tokens=2, init="vocab", filtered_by=["refusal phrases"]))
    with pytest.raises(EvaluationError, match="`refusal phrases` filtered"):
        evaluate(model, tokenizer, extra_systems={"b": System(model, stack=("b",))})


def test_a_model_without_an_active_patch_is_refused(tokenizer):
    model = PolicyPatchModel(tiny_model())
    with pytest.raises(EvaluationError, match="`model` has no active patch"):
        evaluate(model, tokenizer)


def test_look_alikes_where_nothing_is_refused_are_an_error(patched, tokenizer):
    with pytest.raises(
        EvaluationError, match="`safe_prompts` measure over-refusal, but gender_bias has no metric for it"
    ):
        evaluate(patched, tokenizer, risk="gender_bias", scorers=[WORDS])
