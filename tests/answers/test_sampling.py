"""Tests of `answers.sampling`: what a completion depends on, and what is left as it was."""

import numpy as np
import pytest
import torch

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.answers.sampling import decode_new, sample_completions
from policy_patch.errors import DataError
from tests.tiny_models import EOS, VOCAB_SIZE, tiny_model, tiny_tokenizer

PROMPTS = ["You are", "The weather in the north is", "A", "She said that"]
SHORT = {"num_samples": 3, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def model():
    """One base for the file."""
    return tiny_model("llama")


def test_the_same_seed_gives_the_same_completions_and_another_one_others(model, tokenizer):
    first = sample_completions(model, tokenizer, PROMPTS, **SHORT, seed=1)
    assert first == sample_completions(model, tokenizer, PROMPTS, **SHORT, seed=1)
    assert first != sample_completions(model, tokenizer, PROMPTS, **SHORT, seed=2)
    assert [len(texts) for texts in first] == [3] * len(PROMPTS)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_batch_size_has_no_part_in_a_completion(model, tokenizer, batch_size):
    expected = sample_completions(model, tokenizer, PROMPTS, **SHORT)
    assert sample_completions(model, tokenizer, PROMPTS, **SHORT, batch_size=batch_size) == expected


def test_a_prompt_is_completed_alone_as_among_others_and_in_any_order(family, tokenizer):
    model = tiny_model(family)
    together = sample_completions(model, tokenizer, PROMPTS, **SHORT)
    assert sample_completions(model, tokenizer, PROMPTS[::-1], **SHORT) == together[::-1]
    assert [sample_completions(model, tokenizer, [prompt], **SHORT)[0] for prompt in PROMPTS] == together


def test_more_samples_and_longer_ones_only_add(model, tokenizer):
    few = sample_completions(model, tokenizer, PROMPTS, num_samples=2, max_new_tokens=4)
    many = sample_completions(model, tokenizer, PROMPTS, num_samples=5, max_new_tokens=4)
    assert [texts[:2] for texts in many] == few
    # One token is one byte here, and half a character shows as another one than the whole: compare what is ASCII.
    long = sample_completions(model, tokenizer, PROMPTS, num_samples=2, max_new_tokens=9)
    compared = []
    for short_texts, long_texts in zip(few, long, strict=True):
        for short_text, long_text in zip(short_texts, long_texts, strict=True):
            if short_text.isascii():
                assert long_text.startswith(short_text)
                compared.append(short_text)
    assert len(compared) > 1


def test_equal_prompts_get_completions_of_their_own(model, tokenizer):
    first, second = sample_completions(model, tokenizer, ["You are", "You are"], **SHORT)
    assert first != second


def test_a_tiny_temperature_is_greedy(model, tokenizer):
    sampled = sample_completions(model, tokenizer, PROMPTS, num_samples=2, max_new_tokens=6, temperature=1e-6)
    for prompt, texts in zip(PROMPTS, sampled, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        greedy = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert texts == [tokenizer.decode(greedy[0, ids.shape[1] :], skip_special_tokens=True)] * 2


def test_the_base_s_own_generation_config_has_no_effect(tokenizer):
    expected = sample_completions(tiny_model(), tokenizer, PROMPTS, **SHORT)
    model = tiny_model()
    model.generation_config.update(
        do_sample=True,
        top_k=1,
        temperature=0.1,
        top_p=0.1,
        typical_p=0.2,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        min_new_tokens=6,
        max_length=9,
        num_beams=2,
        suppress_tokens=[70, 71],
    )
    before = model.generation_config.to_dict()
    assert sample_completions(model, tokenizer, PROMPTS, **SHORT) == expected
    assert model.generation_config.to_dict() == before


def test_drawn_tokens_follow_the_model_s_distribution(model, tokenizer):
    ids = torch.tensor([tokenizer("You are")["input_ids"]])
    with torch.no_grad():
        probabilities = model(ids).logits[0, -1].softmax(-1).double().numpy()
    texts = sample_completions(
        model, tokenizer, ["You are"], num_samples=4000, max_new_tokens=1, top_p=1.0, batch_size=4000
    )[0]
    ascii_tokens = [token for token in range(3, VOCAB_SIZE) if tokenizer.decode([token]).isascii()]
    for token in sorted(ascii_tokens, key=lambda token: -probabilities[token])[:8]:
        expected = probabilities[token]
        share = texts.count(tokenizer.decode([token])) / len(texts)
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(texts))


def test_top_p_draws_from_the_nucleus_alone(model, tokenizer):
    ids = torch.tensor([tokenizer("You are")["input_ids"]])
    with torch.no_grad():
        probabilities, tokens = model(ids).logits[0, -1].softmax(-1).sort(descending=True)
    size = int((probabilities.cumsum(-1) < 0.3).sum()) + 1
    texts = sample_completions(model, tokenizer, ["You are"], num_samples=200, max_new_tokens=1, top_p=0.3)[0]
    assert set(texts) <= {tokenizer.decode([token], skip_special_tokens=True) for token in tokens[:size]}
    assert size > 1 and len(set(texts)) > 1, "not the likeliest token alone"


def test_a_completion_ends_at_the_end_of_text(model, tokenizer):
    class EndsAtOnce(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config, self.generation_config = model, model.config, model.generation_config
            self.device = model.device

        def generate(self, input_ids, **kwargs):
            tail = torch.tensor([[ord("a"), EOS, ord("b")]]).expand(len(input_ids), 3)
            return torch.cat([input_ids, tail], dim=1)

    texts = sample_completions(EndsAtOnce(), tokenizer, ["You"], num_samples=2)
    assert texts == [[tokenizer.decode([ord("a")])] * 2]


def test_model_tokenizer_and_random_state_are_left_as_they_were():
    model, tokenizer = tiny_model().train(), tiny_tokenizer()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    tokenizer.padding_side = "right"
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    sample_completions(model, tokenizer, PROMPTS, **SHORT)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert [module.training for module in model.modules()] == modes
    assert tokenizer.padding_side == "right"


def test_a_tokenizer_without_a_pad_token_gives_the_same(model, tokenizer):
    expected = sample_completions(model, tokenizer, PROMPTS, **SHORT)
    bare = tiny_tokenizer()
    bare.pad_token = None
    assert sample_completions(model, bare, PROMPTS, **SHORT) == expected
    assert bare.pad_token is None


def test_special_tokens_that_mark_thoughts_stay_and_others_go():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["[THINK]", "[/THINK]", "[OTHER]"]})
    ids = tokenizer("[THINK]no[/THINK] ok[OTHER]</s>", add_special_tokens=False)["input_ids"]
    prompt = tokenizer("[OTHER]a")["input_ids"]
    assert decode_new(tokenizer, prompt, ids) == "[THINK]no[/THINK] ok"
    assert decode_new(tokenizer, prompt, ids[4:]) == " ok"
    assert decode_new(tokenizer, [*prompt, ids[0]], ids[1:]) == "no[/THINK] ok", "the opening mark is in the prompt"


def test_the_instruction_stands_before_the_prompt_and_leaves_its_randomness(model, tokenizer):
    with_instruction = sample_completions(
        model, tokenizer, ["You are"], **SHORT, temperature=1e-6, instruction="Be kind. "
    )
    assert with_instruction == sample_completions(model, tokenizer, ["Be kind. You are"], **SHORT, temperature=1e-6)


def test_prompts_beyond_the_context_are_cut_on_the_left(tokenizer):
    model = tiny_model("gpt2")  # 64 positions
    long = "x" * 200 + "You are"
    room = 64 - 6 - 1  # new tokens and BOS
    assert sample_completions(model, tokenizer, [long], **SHORT, temperature=1e-6) == sample_completions(
        model, tokenizer, [long[-room:]], **SHORT, temperature=1e-6
    )
    patched = get_policy_patch_model(model, PolicyPatchConfig(num_virtual_tokens=8, init="vocab"))
    assert len(sample_completions(patched, tokenizer, [long], **SHORT)[0]) == 3
    with pytest.raises(DataError, match=r"8 vectors leave no room.* 64 positions. Use fewer new tokens"):
        sample_completions(patched, tokenizer, [long], max_new_tokens=63)
    with pytest.raises(DataError, match=r"8 vectors leave no room.* Use at most 2 vectors, or fewer new tokens"):
        sample_completions(patched, tokenizer, [long], max_new_tokens=60)


def test_a_patched_model_is_sampled_behind_its_patch(model, tokenizer):
    patched = get_policy_patch_model(tiny_model(), PolicyPatchConfig(num_virtual_tokens=4, init="vocab"))
    expected = sample_completions(model, tokenizer, PROMPTS, **SHORT)
    assert sample_completions(patched, tokenizer, PROMPTS, **SHORT) != expected
    assert sample_completions(patched.get_base_model(), tokenizer, PROMPTS, **SHORT) == expected


def test_progress_is_told_after_each_batch(model, tokenizer):
    told = []
    sample_completions(
        model, tokenizer, PROMPTS, **SHORT, batch_size=5, on_progress=lambda done, total: told.append((done, total))
    )
    assert told == [(5, 12), (10, 12), (12, 12)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "`prompts` is empty"),
        ({"prompts": "one text"}, "has to be a list of texts"),
        ({"prompts": ["a", 3]}, r"`prompts\[1\]` is a int"),
        ({"prompts": ["a", "b\ud800"]}, r"`prompts\[1\]` has half a character \(\\ud800, a lone surrogate\)"),
        ({"num_samples": 0}, "`num_samples=0`: expected at least 1"),
        ({"max_new_tokens": 0}, "`max_new_tokens=0`"),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"top_p": 0.0}, "`top_p=0.0`: expected a probability"),
        ({"temperature": 0.0}, "`temperature=0.0`: expected a number above 0"),
        ({"max_new_tokens": 300}, "0 vectors leave no room for a prompt: the model has 256 positions"),
    ],
)
def test_impossible_settings_are_refused(model, tokenizer, changes, message):
    with pytest.raises(DataError, match=message):
        sample_completions(model, tokenizer, **{"prompts": PROMPTS, **changes})


def test_a_model_whose_logits_are_not_numbers_is_refused(tokenizer):
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(DataError, match="logits are not numbers"):
        sample_completions(model, tokenizer, PROMPTS, **SHORT)
