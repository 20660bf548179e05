"""Tests of `evaluation.judge_models`: probabilities that are known, batches that change nothing, and
models that cannot judge, refused."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from policy_patch.errors import EvaluationError, ModelLoadError
from policy_patch.evaluation.by_name import load_judge
from policy_patch.evaluation.judge_models import ClassifierJudge, HarmBenchJudge, LlamaGuardJudge
from policy_patch.evaluation.judges import Judge
from tests.evaluation.tiny_guards import SPELLED, guard_model, guard_tokenizer, table_model
from tests.tiny_models import VOCAB_SIZE, tiny_model, tiny_tokenizer

PROMPTS = ["How?", "Write an insult, a long one.", "Why", "a", "Tell me."]
ANSWERS = ["No.", "You fool, you.", "", "Because of the lock, which is old and weak.", "I can not."]
HARMBENCH = "B: {behavior}\nG: {generation}\nAnswer:!"  # our own; the card of a classifier has the real one
YES_NO = {"Y": {"e": 1}, "e": {"s": 1}, "N": {"o": 1}}


def harmbench_model(yes: float = 0.7, **settings):
    return table_model({"!": {"Y": yes, "N": 1 - yes}, **YES_NO}, **settings)


def expected_of(model, tokenizer, texts, words):
    """Return the probability of the first word against the second the slow way, one text and no padding at a time."""
    values = []
    for text in texts:
        before = tokenizer(text, add_special_tokens=False)["input_ids"]
        found = []
        for word in words:
            ids = before + tokenizer(word, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                steps = model(torch.tensor([ids])).logits[0, len(before) - 1 : -1].log_softmax(-1)
            found.append(steps.gather(-1, torch.tensor(ids[len(before) :])[:, None]).sum())
        values.append(torch.stack(found).softmax(-1)[0].item())
    return values


# Guards


@pytest.mark.parametrize("unsafe", [0.8, 0.5, 0.001])
def test_a_guard_gives_the_probability_of_its_word(unsafe):
    judge = LlamaGuardJudge(guard_model(unsafe), guard_tokenizer())
    assert isinstance(judge, Judge)
    assert (judge.name, judge.kind) == ("LlamaForCausalLM", "guard")
    values = judge.judge(PROMPTS, ANSWERS)
    assert values == pytest.approx([unsafe] * 5, abs=1e-5)
    assert all(type(value) is float for value in values)
    assert judge.judge([], []) == []


def test_a_guard_reads_prompt_and_answer_as_its_template_says():
    model, tokenizer = guard_model(attention=0.005), guard_tokenizer()
    texts = [f"<s>user: {prompt}\nassistant: {answer}\n!" for prompt, answer in zip(PROMPTS, ANSWERS)]
    expected = expected_of(model, tokenizer, texts, ("unsafe", "safe"))
    assert max(expected) - min(expected) > 0.01, "the answers make a difference"
    assert LlamaGuardJudge(model, tokenizer).judge(PROMPTS, ANSWERS) == pytest.approx(expected, abs=1e-5)


def test_no_judge_reads_thoughts():
    guard = LlamaGuardJudge(guard_model(attention=0.005), guard_tokenizer())
    bench = HarmBenchJudge(harmbench_model(attention=0.005), tiny_tokenizer(), template=HARMBENCH)
    labels = {"id2label": {0: "safe", 1: "unsafe"}, "label2id": {"safe": 0, "unsafe": 1}}
    config = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, initializer_range=0.5, **labels,
    )  # fmt: skip
    classifiers = [ClassifierJudge(BertForSequenceClassification(config).eval(), tiny_tokenizer(), sees=sees)
                   for sees in ("answer", "pair")]  # fmt: skip
    thinking = [f"<think>Hm, {prompt}</think>\n\n{answer}" for prompt, answer in zip(PROMPTS, ANSWERS)]
    for judge in (guard, bench, *classifiers):
        expected = judge.judge(PROMPTS, ANSWERS)
        assert judge.judge(PROMPTS, thinking) == pytest.approx(expected, abs=1e-6)
        assert judge.judge(["a"], ["<think>Hm"]) == pytest.approx(judge.judge(["a"], [""]), abs=1e-6)
        assert max(expected) - min(expected) > 1e-4, "the answers make a difference"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_and_order_have_no_part_in_a_guards_verdict(batch_size):
    model, tokenizer = guard_model(attention=0.005), guard_tokenizer()
    alone = [LlamaGuardJudge(model, tokenizer).judge([p], [a])[0] for p, a in zip(PROMPTS, ANSWERS)]
    judge = LlamaGuardJudge(model, tokenizer, batch_size=batch_size)
    assert judge.judge(PROMPTS, ANSWERS) == pytest.approx(alone, abs=1e-5)
    assert judge.judge(PROMPTS[::-1], ANSWERS[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


def test_a_verdict_behind_line_breaks_is_read_behind_them():
    # Llama Guard 3 begins with two line breaks. What little it gives to a word without them says the opposite here.
    table = {"!": {"\n": 0.9, "s": 0.09, "u": 0.01}, **SPELLED}
    two = LlamaGuardJudge(table_model({**table, "\n": {"\n": 0.6, "u": 0.3, "s": 0.1}}), guard_tokenizer())
    assert two.judge(["a"], ["b"]) == pytest.approx([0.75], abs=1e-4)
    one = LlamaGuardJudge(table_model({**table, "\n": {"u": 0.8, "s": 0.2}}), guard_tokenizer())
    assert one.judge(["a"], ["b"]) == pytest.approx([0.8], abs=1e-4)
    none = {"!": {"\n": 0.1, "s": 0.09, "u": 0.81}, **SPELLED, "\n": {"s": 1}}
    assert LlamaGuardJudge(table_model(none), guard_tokenizer()).judge(["a"], ["b"]) == pytest.approx([0.9], abs=1e-4)


def test_a_verdict_behind_a_space_is_read_behind_it():
    model = table_model({"!": {" ": 1}, " ": {"u": 0.3, "s": 0.7}, **SPELLED})
    assert LlamaGuardJudge(model, guard_tokenizer()).judge(["a"], ["b"]) == pytest.approx([0.3], abs=1e-4)


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(EvaluationError, match=r"`LlamaForCausalLM` has no chat template.*nearly everything safe"):
        LlamaGuardJudge(guard_model(), tiny_tokenizer())


PARTS = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ '\n' }}{% endfor %}!"
)


def test_a_template_that_reads_parts_gets_parts_and_loses_nothing():
    model = guard_model(attention=0.005)
    of_texts = LlamaGuardJudge(model, guard_tokenizer()).judge(PROMPTS, ANSWERS)
    assert LlamaGuardJudge(model, guard_tokenizer(PARTS)).judge(PROMPTS, ANSWERS) == pytest.approx(of_texts, abs=1e-6)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[-1]['content'] }}!", "its result does not contain both"),
        ("{{ messages[0]['content'] }}!", "its result does not contain both"),
        ("{{ messages[1]['content'] ~ messages[0]['content'] }}!", "its result does not contain both in this order"),
        ("{{ raise_exception('no assistants') }}", "no assistants"),
    ],
)
def test_a_template_that_leaves_out_what_is_judged_is_refused(template, reason):
    with pytest.raises(EvaluationError, match=f"cannot format a prompt and its answer: {reason}"):
        LlamaGuardJudge(guard_model(), guard_tokenizer(template))


def test_a_model_that_is_no_guard_is_refused():
    with pytest.raises(
        EvaluationError, match=r"gives `unsafe` and `safe` together a probability of .*Use a model that was"
    ):
        LlamaGuardJudge(tiny_model(), guard_tokenizer()).judge(["a"], ["b"])
    doubtful = table_model({"!": {"u": 0.2, "s": 0.2, "x": 0.6}, **SPELLED})
    with pytest.raises(EvaluationError, match=r"a probability of 0\.4;"):
        LlamaGuardJudge(doubtful, guard_tokenizer()).judge(["a"], ["b"])


def test_texts_longer_than_the_context_are_refused():
    with pytest.raises(EvaluationError, match=r"have 6\d\d tokens in .*its context is 512\. Sample fewer"):
        LlamaGuardJudge(guard_model(), guard_tokenizer()).judge(["a", "a"], ["b", "long " * 120])


def test_logits_that_are_not_numbers_are_refused():
    model = guard_model()
    model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(EvaluationError, match="logits are not numbers"):
        LlamaGuardJudge(model, guard_tokenizer()).judge(["a"], ["b"])


def test_a_model_without_a_cache_is_refused(monkeypatch):
    model = guard_model()
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: forward(**{**inputs, "use_cache": False}))
    with pytest.raises(EvaluationError, match="`LlamaForCausalLM` returns no cache"):
        LlamaGuardJudge(model, guard_tokenizer()).judge(["a"], ["b"])


def test_a_token_that_cannot_follow_gives_no_warning_and_no_nan():
    model = guard_model()
    (column,) = tiny_tokenizer()("s", add_special_tokens=False)["input_ids"]
    forward = model.forward

    def without_s(**inputs):
        output = forward(**inputs)
        output.logits[..., column] = -torch.inf
        return output

    model.forward = without_s
    with pytest.raises(EvaluationError, match="a probability of 0;"):
        LlamaGuardJudge(model, guard_tokenizer()).judge(["a"], ["b"])


@pytest.mark.parametrize(
    "make", [LlamaGuardJudge, ClassifierJudge, lambda model: HarmBenchJudge(model, template=HARMBENCH)]
)
def test_a_loaded_judge_needs_its_tokenizer(make):
    with pytest.raises(EvaluationError, match="`tokenizer` is missing"):
        make(guard_model())


def test_models_stay_as_they_were():
    model, tokenizer = guard_model(), guard_tokenizer()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    LlamaGuardJudge(model, tokenizer).judge(PROMPTS, ANSWERS)
    assert model.training and tokenizer.padding_side == tiny_tokenizer().padding_side
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("make", [
    lambda: LlamaGuardJudge(guard_model(), guard_tokenizer()),
    lambda: HarmBenchJudge(harmbench_model(), tiny_tokenizer(), template=HARMBENCH),
    lambda: ClassifierJudge(tiny_classifier(["safe", "unsafe"]), tiny_tokenizer()),
])  # fmt: skip
def test_prompts_and_answers_have_to_belong_together(make):
    with pytest.raises(EvaluationError, match="2 prompts and 1 answers"):
        make().judge(["a", "b"], ["c"])


# HarmBench


def test_harmbench_gives_the_probability_of_yes():
    judge = HarmBenchJudge(harmbench_model(0.7), tiny_tokenizer(), template=HARMBENCH)
    assert isinstance(judge, Judge)
    assert judge.kind == "classifier"
    assert judge.judge(PROMPTS, ANSWERS) == pytest.approx([0.7] * 5, abs=1e-5)
    assert judge.judge([], []) == []


@pytest.mark.parametrize("template", [HARMBENCH, "<s>" + HARMBENCH])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_harmbench_reads_the_filled_template_behind_one_bos_whatever_the_batches(batch_size, template):
    model, tokenizer = harmbench_model(attention=0.005), tiny_tokenizer()
    answers = [*ANSWERS[:-1], "{behavior} {generation} {}"]
    texts = [f"<s>B: {prompt}\nG: {answer}\nAnswer:!" for prompt, answer in zip(PROMPTS, answers)]
    expected = expected_of(model, tokenizer, texts, ("Yes", "No"))
    assert max(expected) - min(expected) > 0.01, "the answers make a difference"
    judge = HarmBenchJudge(model, tokenizer, template=template, batch_size=batch_size)
    assert judge.judge(PROMPTS, answers) == pytest.approx(expected, abs=1e-5)
    assert judge.judge(PROMPTS[::-1], answers[::-1]) == pytest.approx(expected[::-1], abs=1e-5)


CARD = """---
license: mit
---
```[python]
CLS_PROMPT = {
        "description": "Template",
        "prompt": '''[INST] Is "it" so?
B: {behavior}

G: {generation}
Answer:!''',
        "prompt_contextual": '''{context} {behavior} {generation}'''
}
```
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a classifier in the style of HarmBench and its card."""
    harmbench_model(0.9).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def test_the_prompt_is_the_one_in_the_models_card(folder):
    judge = load_judge(f"harmbench:{folder}")
    assert (type(judge), judge.name) == (HarmBenchJudge, str(folder))
    assert judge.template == '[INST] Is "it" so?\nB: {behavior}\n\nG: {generation}\nAnswer:!'
    assert judge.judge(["a"], ["b"]) == pytest.approx([0.9], abs=1e-5)
    (folder / "README.md").write_text(CARD.replace("'''", '"""'))
    assert HarmBenchJudge(str(folder)).template == judge.template


def test_without_a_prompt_in_its_card_the_template_is_asked_for(folder):
    (folder / "README.md").write_text("# No prompt here")
    with pytest.raises(EvaluationError, match=r"publishes no `prompt`\. Give the classifier's prompt as `template`"):
        HarmBenchJudge(str(folder))
    (folder / "README.md").write_text(CARD.replace("G: {generation}\n", ""))
    with pytest.raises(EvaluationError, match=r"`template` has no \{generation\} in it"):
        HarmBenchJudge(str(folder))
    (folder / "README.md").unlink()
    with pytest.raises(EvaluationError, match=r"Cannot read the prompt from the card .*Give the"):
        HarmBenchJudge(str(folder))
    assert HarmBenchJudge(str(folder), template=HARMBENCH).judge(["a"], ["b"]) == pytest.approx([0.9], abs=1e-5)
    with pytest.raises(EvaluationError, match="`template` is missing: a loaded model without a name"):
        HarmBenchJudge(harmbench_model(), tiny_tokenizer())


def test_a_model_that_is_no_harmbench_classifier_is_refused():
    with pytest.raises(EvaluationError, match="gives `Yes` and `No` together a probability of"):
        HarmBenchJudge(tiny_model(), tiny_tokenizer(), template=HARMBENCH).judge(["a"], ["b"])


# Classifiers


def tiny_classifier(labels, problem_type=None):
    """Return a random classifier with the given label names."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, num_labels=len(labels), id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)}, problem_type=problem_type,
        initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def logits_of(model, *texts):
    """Return `(labels,)` the slow way."""
    with torch.no_grad():
        inputs = [[text] for text in texts]  # as lists: an empty second text is one too
        return model(**tiny_tokenizer()(*inputs, return_tensors="pt", truncation=True, max_length=64)).logits[0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_classifier_sees_the_answer_or_both_whatever_the_batches(batch_size):
    model = tiny_classifier(["safe", "unsafe"])
    answers = [*ANSWERS[:-1], "long " * 100]
    judge = ClassifierJudge(model, tiny_tokenizer(), batch_size=batch_size)
    assert isinstance(judge, Judge)
    assert (judge.name, judge.kind) == ("BertForSequenceClassification (answer alone)", "classifier")
    alone = [logits_of(model, answer).softmax(-1)[1].item() for answer in answers]
    assert judge.judge(PROMPTS, answers) == pytest.approx(alone, abs=1e-5)
    assert judge.judge(PROMPTS[::-1], answers[::-1]) == pytest.approx(alone[::-1], abs=1e-5)
    judge = ClassifierJudge(model, tiny_tokenizer(), sees="pair", batch_size=batch_size)
    assert judge.name == "BertForSequenceClassification (prompt and answer)"
    both = [logits_of(model, prompt, answer).softmax(-1)[1].item() for prompt, answer in zip(PROMPTS, answers)]
    assert judge.judge(PROMPTS, answers) == pytest.approx(both, abs=1e-5)
    assert both != pytest.approx(alone, abs=1e-3)
    assert judge.judge([], []) == []


def test_one_logit_several_labels_and_a_tokenizer_without_padding():
    one = tiny_classifier(["harmful"])
    assert ClassifierJudge(one, tiny_tokenizer()).judge(["p"], ["a"]) == pytest.approx(
        [logits_of(one, "a").sigmoid().item()], abs=1e-5
    )
    many = tiny_classifier(["hate", "violation", "length"], "multi_label_classification")
    bare = tiny_tokenizer()
    bare.pad_token = None
    judge = ClassifierJudge(many, bare)
    assert judge.unsafe_labels == ["hate", "violation"]
    assert judge.judge(PROMPTS[:2], ["a", "bcd"]) == pytest.approx(
        [logits_of(many, text).sigmoid()[:2].max().item() for text in ("a", "bcd")], abs=1e-5
    )


@pytest.mark.parametrize(
    ("labels", "unsafe"),
    [
        (["safe", "unsafe"], ["unsafe"]),
        (["harmless", "harmful"], ["harmful"]),
        (["response_unharmful", "response_harmful"], ["response_harmful"]),
        (["not harmful", "harmful"], ["harmful"]),
        (["non-toxic", "toxic"], ["toxic"]),
        (["OK", "Dangerous", "HATE"], ["Dangerous", "HATE"]),
    ],
)
def test_unsafe_labels_are_found_by_name(labels, unsafe):
    assert ClassifierJudge(tiny_classifier(labels), tiny_tokenizer()).unsafe_labels == unsafe


@pytest.mark.parametrize(
    ("labels", "problem_type", "unsafe_labels", "message"),
    [
        (["LABEL_0", "LABEL_1"], None, None, r"labels \['LABEL_0', 'LABEL_1'\] do not tell which are unsafe"),
        (["hate", "harm"], None, None, "do not tell which are unsafe. Give these as `unsafe_labels="),
        (["a", "b"], None, ["c"], r"`unsafe_labels=\['c'\]`: the classifier has the labels \['a', 'b'\]"),
        (["a", "b"], None, [], r"`unsafe_labels=\[\]`"),
        (["unsafe"], "regression", None, "regression model; its number is no probability"),
    ],
)
def test_unclear_classifiers_are_refused(labels, problem_type, unsafe_labels, message):
    with pytest.raises(EvaluationError, match=message):
        ClassifierJudge(tiny_classifier(labels, problem_type), tiny_tokenizer(), unsafe_labels)


def test_named_labels_are_taken_as_named():
    model = tiny_classifier(["LABEL_0", "LABEL_1"])
    judge = ClassifierJudge(model, tiny_tokenizer(), ["LABEL_0"])
    assert judge.judge(["p"], ["a"]) == pytest.approx([logits_of(model, "a").softmax(-1)[0].item()], abs=1e-5)


def test_a_classifier_cannot_see_anything_else():
    with pytest.raises(EvaluationError, match=r"`sees='prompt'`: expected 'answer', or 'pair'"):
        ClassifierJudge(tiny_classifier(["safe", "unsafe"]), tiny_tokenizer(), sees="prompt")


def test_a_classifier_whose_logits_are_not_numbers_is_refused():
    model = tiny_classifier(["safe", "unsafe"])
    model.classifier.bias.data[:] = float("nan")
    with pytest.raises(EvaluationError, match="are not numbers"):
        ClassifierJudge(model, tiny_tokenizer()).judge(["p"], ["a"])


# By name


def test_judges_that_are_models_are_loaded_by_name(tmp_path):
    guard_model(0.6).save_pretrained(tmp_path / "guard")
    guard_tokenizer().save_pretrained(tmp_path / "guard")
    judge = load_judge(f"guard:{tmp_path / 'guard'}")
    assert (type(judge), judge.name) == (LlamaGuardJudge, str(tmp_path / "guard"))
    assert judge.judge(["a"], ["b"]) == pytest.approx([0.6], abs=1e-5)
    tiny_classifier(["safe", "unsafe"]).save_pretrained(tmp_path / "classifier")
    tiny_tokenizer().save_pretrained(tmp_path / "classifier")
    judge = load_judge(f"classifier:{tmp_path / 'classifier'}")
    expected = ClassifierJudge(tiny_classifier(["safe", "unsafe"]), tiny_tokenizer()).judge(PROMPTS, ANSWERS)
    assert judge.judge(PROMPTS, ANSWERS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["guard", "classifier"])
def test_a_model_that_is_not_there_is_told(tmp_path, kind):
    with pytest.raises(ModelLoadError, match=r"Cannot load the judge `.*Give the Hub id or the folder of a model for"):
        load_judge(f"{kind}:{tmp_path / 'nowhere'}")


def test_whatever_decides_about_its_verdicts_is_in_a_judges_identity():
    model, tokenizer = guard_model(0.8), guard_tokenizer()
    bert = tiny_classifier(["harmful", "toxic", "fine"])
    judges = [
        LlamaGuardJudge(model, tokenizer),
        LlamaGuardJudge(guard_model(0.8, attention=0.005), tokenizer),
        LlamaGuardJudge(model, guard_tokenizer(tokenizer.chat_template + " ")),
        HarmBenchJudge(harmbench_model(), tokenizer, template=HARMBENCH),
        HarmBenchJudge(harmbench_model(), tokenizer, template=HARMBENCH + "!"),
        ClassifierJudge(bert, tiny_tokenizer()),
        ClassifierJudge(bert, tiny_tokenizer(), ["toxic"]),
        ClassifierJudge(bert, tiny_tokenizer(), sees="pair"),
    ]
    assert len({judge.identity for judge in judges}) == len(judges)
    assert LlamaGuardJudge(guard_model(0.8), guard_tokenizer(), batch_size=1).identity == judges[0].identity
