"""Every way of decoding that transformers has gives, behind a patch, what the vectors in the prompt would give.

The reference knows nothing of our code: the base, whose token table has a row for each vector of the patch appended,
reads them as ordinary tokens of the prompt. What decoding sees of that prompt is cut off again.
"""

import copy
import threading

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    cache_utils,
    pipeline,
)

from policy_patch import PolicyPatchConfig, get_policy_patch_model
from policy_patch.errors import PatchInputError
from tests.definition import generate_by_definition, logits_by_definition, padded
from tests.tiny_models import BOS, PAD, VOCAB_SIZE, tiny_model, tiny_tokenizer

N, NEW = 6, 12
ROW = [BOS, 40, 41, 42, 40, 41]
ROWS = [ROW, [BOS, 77], [BOS, 9, 8, 7]]
SOME = ("llama", "gpt2", "gemma2", "mistral")  # rotary and learned positions, windows in some layers and in all
OPTIONS = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": PAD}


def patched(family: str = "llama"):
    model = get_policy_patch_model(tiny_model(family), PolicyPatchConfig(num_virtual_tokens=N, init="random"))
    with torch.no_grad():
        model.patches["default"].mul_(3)
    model.requires_grad_(False)  # as a patch is that serves
    return model.eval(), model.get_base_model(), model.patches["default"].detach()


def with_vectors_as_tokens(model):
    """Return a copy of the base with the vectors as further tokens, and their ids."""
    base = copy.deepcopy(model.get_base_model())
    base.config.tie_word_embeddings = False
    head = base.get_output_embeddings().weight.detach().clone()
    vectors = model.patches["default"].detach() / getattr(base.get_input_embeddings(), "scalar_embed_scale", 1.0)
    base.resize_token_embeddings(VOCAB_SIZE + N, mean_resizing=False)
    with torch.no_grad():
        base.get_input_embeddings().weight[VOCAB_SIZE:] = vectors
    base.get_output_embeddings().weight = torch.nn.Parameter(head)  # which never gives a vector
    return base, list(range(VOCAB_SIZE, VOCAB_SIZE + N))


def prompt(row: list[int], ids: list[int]) -> torch.Tensor:
    return torch.tensor([[row[0], *ids, *row[1:]]])


# Modes that only read logits and cache


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
        {"do_sample": True, "top_p": 0.9, "temperature": 0.8},
        {"do_sample": True, "num_beams": 2},
        {"do_sample": True, "num_return_sequences": 4, "top_k": 20},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 3},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "num_beams": 2},
        {"cache_implementation": "dynamic"},
        {"use_cache": False},
        {"guidance_scale": 1.5},
    ],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()) or "greedy",
)
def test_a_way_of_decoding_equals_vectors_that_are_tokens_of_the_prompt(family, options):
    model, _, _ = patched(family)
    base, ids = with_vectors_as_tokens(model)
    options = {**OPTIONS, **options}
    if "guidance_scale" in options:  # what is guided away from begins with the vectors too
        negative = torch.tensor([[BOS, 60]])
        ours, theirs = {"negative_prompt_ids": negative}, {"negative_prompt_ids": prompt([BOS, 60], ids)}
    else:
        ours = theirs = {}
    torch.manual_seed(5)
    found = model.generate(torch.tensor([ROW]), **options, **ours)
    torch.manual_seed(5)
    expected = base.generate(prompt(ROW, ids), **options, **theirs)
    assert found[:, : len(ROW)].tolist() == [ROW] * len(found)
    assert found[:, len(ROW) :].tolist() == expected[:, len(ROW) + N :].tolist()


@pytest.mark.parametrize("family", SOME)
def test_an_assistant_patched_or_not_changes_speed_and_no_token(family):
    model, base, vectors = patched(family)
    expected = generate_by_definition(base, vectors, ROW, NEW)
    assistants = [tiny_model(family, seed=1), tiny_model(family), patched(family)[0]]
    for assistant in assistants:
        found = model.generate(torch.tensor([ROW]), assistant_model=assistant, **{**OPTIONS, "min_new_tokens": None})
        kept = found[0, len(ROW) :].tolist()
        assert kept == expected[: len(kept)] and len(kept) > 1


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}, {"prefill_chunk_size": 7}]
)
def test_a_padded_batch_gives_each_row_what_it_gives_alone(family, options):
    model, _, _ = patched(family)
    options = {**OPTIONS, **options}
    ids, mask = padded(ROWS, "left")
    together = model.generate(input_ids=ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    for row, found in zip(ROWS, together):
        assert found.tolist() == model.generate(torch.tensor([row]), **options)[0, len(row) :].tolist()


def test_a_chunk_of_nothing_but_padding_is_refused():
    model, _, _ = patched()
    ids, mask = padded(ROWS, "left")
    with pytest.raises(PatchInputError, match="A row begins with a whole chunk of padding"):
        model.generate(input_ids=ids, attention_mask=mask, prefill_chunk_size=2, **OPTIONS)


# What looks at ids sees the real ones only


class Recorder(LogitsProcessor):
    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids.tolist())
        return scores


class StopAfter(StoppingCriteria):
    def __init__(self, length):
        self.length, self.seen = length, []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(input_ids.shape[1])
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_processors_criteria_and_streamers_see_real_ids_only():
    model, base, vectors = patched()
    recorder, stop, tokenizer = Recorder(), StopAfter(len(ROW) + 4), tiny_tokenizer()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    found = model.generate(
        torch.tensor([ROW]),
        logits_processor=LogitsProcessorList([recorder]),
        stopping_criteria=StoppingCriteriaList([stop]),
        streamer=streamer,
        **OPTIONS,
    )[0].tolist()
    assert found == [*ROW, *generate_by_definition(base, vectors, ROW, 4)]
    assert recorder.seen == [[found[:length]] for length in range(len(ROW), len(found))]
    assert stop.seen == list(range(len(ROW) + 1, len(found) + 1))
    assert "".join(streamer) == tokenizer.decode(found[len(ROW) :])


@pytest.mark.parametrize(
    "options", [{"repetition_penalty": 5.0}, {"no_repeat_ngram_size": 1}, {"bad_words_ids": [[40]]}]
)
def test_rules_about_ids_hold_for_the_real_ones(options):
    model, base, vectors = patched()
    found = model.generate(torch.tensor([ROW]), **OPTIONS, **options)[0].tolist()
    row = list(ROW)
    for _ in range(NEW):  # the rule by hand, on the logits of the definition
        logits = logits_by_definition(base, vectors, row)[-1].detach().clone()
        logits[2] = -torch.inf  # no end before the shortest length
        if "repetition_penalty" in options:
            seen = torch.tensor(sorted(set(row)))
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / 5.0, logits[seen] * 5.0)
        elif "no_repeat_ngram_size" in options:
            logits[torch.tensor(row)] = -torch.inf
        else:
            logits[40] = -torch.inf
        row.append(int(logits.argmax()))
    assert found == row


def test_lengths_do_not_count_vectors():
    model, base, vectors = patched()
    options = {"do_sample": False, "pad_token_id": PAD, "eos_token_id": None}
    found = model.generate(torch.tensor([ROW]), max_length=len(ROW) + 3, **options)[0].tolist()
    assert found == [*ROW, *generate_by_definition(base, vectors, ROW, 3)]
    gpt2, _, _ = patched("gpt2")  # 64 learned positions, 6 of them for vectors
    assert gpt2.generate(torch.tensor([ROW]), max_length=64 - N, **options).shape[1] == 64 - N


def test_no_prompt_at_all_is_a_lone_bos():
    model, base, vectors = patched()
    expected = [BOS, *generate_by_definition(base, vectors, [BOS], 4)]
    options = {**OPTIONS, "max_new_tokens": 4, "min_new_tokens": None, "eos_token_id": None}
    assert model.generate(**options)[0].tolist() == expected
    assert model.generate(torch.tensor([[BOS]]), **options)[0].tolist() == expected


@pytest.mark.parametrize("family", SOME)
def test_embeddings_can_be_the_prompt(family):
    model, base, vectors = patched(family)
    embeds = base.get_input_embeddings()(torch.tensor([ROW]))
    options = {**OPTIONS, "min_new_tokens": None, "eos_token_id": None}
    assert model.generate(inputs_embeds=embeds, **options)[0].tolist() == generate_by_definition(
        base, vectors, ROW, NEW
    )


# What comes back beside ids


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("beams", [1, 2])
def test_scores_hidden_states_and_attentions_have_the_lengths_of_the_text(family, beams):
    model, base, vectors = patched(family)
    if family in ("gpt2", "llama"):
        base.set_attn_implementation("eager")
    told = {"output_scores": True, "output_logits": True, "output_hidden_states": True, "output_attentions": True}
    output = model.generate(torch.tensor([ROW]), return_dict_in_generate=True, num_beams=beams, **told, **OPTIONS)
    assert output.sequences.shape == (1, len(ROW) + NEW)
    assert len(output.scores) == len(output.logits) == len(output.hidden_states) == len(output.attentions) == NEW
    for step, (states, weights) in enumerate(zip(output.hidden_states, output.attentions)):
        length = len(ROW) if step == 0 else 1
        assert {state.shape[:2] for state in states} == {(beams, length)}
        assert {weight.shape[2] for weight in weights if weight is not None} <= {length}
    if beams == 1:
        row = output.sequences[0].tolist()
        expected = logits_by_definition(base, vectors, row)[len(ROW) - 1 : -1]
        assert (torch.cat(output.logits) - expected).abs().max() <= 1e-5


# Turns


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("whole", [True, False], ids=["whole text", "new tokens"])
def test_a_second_turn_goes_on_from_the_cache_of_the_first(family, whole):
    model, base, vectors = patched(family)
    options = {**OPTIONS, "min_new_tokens": None, "eos_token_id": None}
    first = model.generate(torch.tensor([ROW]), return_dict_in_generate=True, **options)
    cache, said = first.past_key_values, first.sequences[0].tolist()
    held = cache.get_seq_length()
    text = [*said, 50, 51, 52]
    expected = generate_by_definition(base, vectors, text, NEW)
    if whole:
        second = model.generate(torch.tensor([text]), past_key_values=cache, **options)
        assert second[0].tolist() == [*text, *expected]
    else:  # the last token of the first turn is not in its cache yet
        second = model.generate(
            torch.tensor([text[len(said) - 1 :]]),
            attention_mask=torch.ones(1, len(text)),
            past_key_values=cache,
            **options,
        )
        assert second[0].tolist() == [*text[len(said) - 1 :], *expected]
    assert held == len(said) - 1 and cache.get_seq_length() == len(text) + NEW - 1


def test_a_conversation_does_not_go_on_behind_another_patch_of_the_same_name():
    model, _, _ = patched()
    cache = model.generate(torch.tensor([ROW]), return_dict_in_generate=True, **OPTIONS).past_key_values
    config = model.patch_config["default"]
    model.delete_patch("default")
    model.add_patch("default", PolicyPatchConfig(num_virtual_tokens=config.num_virtual_tokens, init="random"))
    model.set_patch("default")
    with pytest.raises(PatchInputError, match="filled with other patches"):
        model(torch.tensor([[60]]), past_key_values=cache)


def test_turns_of_a_mixed_batch_keep_their_patches():
    model, _base, _vectors = patched()
    model.add_patch("short", PolicyPatchConfig(num_virtual_tokens=2, init="random", init_seed=7))
    rows, names = [ROW, [BOS, *range(60, 65)]], ["default", "short"]
    options = {**OPTIONS, "patch_names": names, "eos_token_id": None, "min_new_tokens": None}
    first = model.generate(torch.tensor(rows), return_dict_in_generate=True, **options)
    text = torch.cat([first.sequences, torch.tensor([[50, 51], [52, 53]])], dim=1)
    with torch.no_grad():
        fresh = model.generate(text, **options)
    assert torch.equal(model.generate(text, past_key_values=first.past_key_values, **options), fresh)


def test_a_cache_cut_back_to_its_vectors_begins_anew_behind_them():
    model, base, vectors = patched()
    options = {**OPTIONS, "min_new_tokens": None, "eos_token_id": None}
    cache = model.generate(torch.tensor([ROW]), return_dict_in_generate=True, **options).past_key_values
    cache.crop(-(len(ROW) + NEW - 3))  # what is left is BOS, the vectors and one token
    assert cache.get_seq_length() == 2
    found = model.generate(torch.tensor([[*ROW[:2], 60, 61]]), past_key_values=cache, **options)[0].tolist()
    assert found[4:] == generate_by_definition(base, vectors, [*ROW[:2], 60, 61], NEW)


def test_a_cache_counts_text_however_it_was_filled_and_so_does_its_copy():
    model, base, _ = patched()
    with torch.no_grad():
        given, row = DynamicCache(config=base.config), torch.tensor([ROW])
        model.generate(row, past_key_values=given, max_new_tokens=2, min_new_tokens=2)
        returned = model(row, use_cache=True).past_key_values
        copied = copy.deepcopy(returned)
        model(torch.tensor([[60]]), past_key_values=returned)
    assert given.get_seq_length() == returned.get_seq_length() == len(ROW) + 1
    assert copied.get_seq_length() == len(ROW) and copied.layers[0].get_seq_length() == N + len(ROW)
    copied.reset()
    assert copied.get_seq_length() == 0


def test_a_cache_cut_back_into_its_vectors_is_refused():
    model, _, _ = patched()
    cache = model.generate(torch.tensor([ROW]), return_dict_in_generate=True, **OPTIONS).past_key_values
    cache.crop(-(len(ROW) + NEW))  # N - 1 columns are left
    with pytest.raises(PatchInputError, match="cut back to"):
        model(torch.tensor([[60]]), past_key_values=cache)


def test_a_prefix_shared_by_many_questions_is_read_once():
    model, base, vectors = patched()
    options = {**OPTIONS, "min_new_tokens": None, "eos_token_id": None}
    with torch.no_grad():
        shared = model(torch.tensor([ROW]), past_key_values=DynamicCache(config=base.config), use_cache=True)
        for question in ([50, 51], [60]):
            cache = copy.deepcopy(shared.past_key_values)
            found = model.generate(torch.tensor([[*ROW, *question]]), past_key_values=cache, **options)[0].tolist()
            assert found[len(ROW) + len(question) :] == generate_by_definition(base, vectors, [*ROW, *question], NEW)


# Caches


def test_a_static_cache_does_not_go_with_assisted_decoding():
    model, _, _ = patched()
    with pytest.raises(PatchInputError, match="does not go with assisted decoding: a static cache cannot be cut"):
        model.generate(torch.tensor([ROW]), cache_implementation="static", prompt_lookup_num_tokens=2, **OPTIONS)


def test_a_paged_cache_would_run_the_base_and_is_refused():
    model, _, _ = patched()
    with pytest.raises(PatchInputError, match="continuous batching, which takes tokens only"):
        model.generate(torch.tensor([ROW]), cache_implementation="paged", **OPTIONS)
    assert not hasattr(model, "generate_batch")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("cacheable", [True, False])
@pytest.mark.parametrize(
    "backend",
    [
        {"backend": "fp8"},
        {"backend": "quanto", "nbits": 4, "q_group_size": 8, "residual_length": 8},
    ],
    ids=lambda backend: backend["backend"],
)
def test_a_quantised_cache_gives_what_it_gives_for_tokens(family, backend, cacheable):
    if backend["backend"] == "fp8" and not hasattr(cache_utils, "Fp8QuantizedLayer"):
        pytest.skip("this transformers has no fp8 cache")
    pytest.importorskip({"quanto": "optimum.quanto", "fp8": "torch"}[backend["backend"]])
    model, _, _ = patched(family)
    base, ids = with_vectors_as_tokens(model)
    model._injection.cacheable = cacheable
    options = {**OPTIONS, "cache_implementation": "quantized", "cache_config": backend}
    expected = base.generate(prompt(ROW, ids), **options)[0, len(ROW) + N :]
    assert torch.equal(model.generate(torch.tensor([ROW]), **options)[0, len(ROW) :], expected)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}])
def test_a_compiled_base_gives_the_same(options):
    model, base, vectors = patched()
    base.forward = torch.compile(base.forward, backend="eager")
    found = model.generate(torch.tensor([ROW]), **OPTIONS, **options)[0, len(ROW) :].tolist()
    assert found == generate_by_definition(tiny_model(), vectors, ROW, NEW)
    torch._dynamo.reset()


def test_a_static_cache_can_be_asked_for_in_a_configuration():
    model, base, vectors = patched()
    config = GenerationConfig(cache_implementation="static", **{**OPTIONS, "min_new_tokens": None})
    expected = generate_by_definition(base, vectors, ROW, NEW)
    for told in ({"generation_config": config}, {"generation_config": GenerationConfig(), **config.to_diff_dict()}):
        found = model.generate(torch.tensor([ROW]), **told)[0, len(ROW) :].tolist()
        assert found == expected[: len(found)]
    assert config.cache_implementation == "static"
    base.generation_config.cache_implementation = "static"
    found = model.generate(torch.tensor([ROW]), **OPTIONS)[0, len(ROW) :].tolist()
    assert found == expected


# People's ways in


def test_a_pipeline_runs_a_patched_model():
    model, base, vectors = patched()
    tokenizer = tiny_tokenizer()
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    text = "The nurse said"
    row = tokenizer(text)["input_ids"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "return_full_text": False}
    expected = [int(token) for token in generate_by_definition(base, vectors, row, 6)]
    assert write(text, **options)[0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)
    both = write([text, "He"], batch_size=2, **options)
    assert both[0][0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_chat_is_its_template_behind_the_patch():
    model, base, vectors = patched()
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"
    )
    chat = [{"role": "user", "content": "hello"}]
    inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    row = inputs["input_ids"][0].tolist()
    assert row.count(BOS) == 1
    found = model.generate(**inputs, **{**OPTIONS, "max_new_tokens": 5, "min_new_tokens": 5})[0, len(row) :].tolist()
    assert found == generate_by_definition(base, vectors, row, 5)
    write = pipeline("text-generation", model=model, tokenizer=tokenizer)
    answer = write(chat, max_new_tokens=5, min_new_tokens=5, do_sample=False)[0]["generated_text"][-1]
    assert answer == {"role": "assistant", "content": tokenizer.decode(found, skip_special_tokens=True)}


def test_a_streaming_thread_keeps_its_patch_while_another_is_set():
    model, base, vectors = patched()
    model.add_patch("other", PolicyPatchConfig(num_virtual_tokens=3, init="random", init_seed=9))
    streamer = TextIteratorStreamer(tiny_tokenizer(), skip_prompt=True)
    found = []
    thread = threading.Thread(
        target=lambda: found.append(model.generate(torch.tensor([ROW]), streamer=streamer, **OPTIONS)[0].tolist())
    )
    thread.start()
    next(iter(streamer))
    model.set_patch("other")
    thread.join()
    assert found[0] == [*ROW, *generate_by_definition(base, vectors, ROW, NEW)]
