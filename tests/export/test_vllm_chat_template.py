"""Tests of the chat template for vLLM: vectors at the trained place or an error, and a proof that bites."""

import copy

import pytest
import torch

from policy_patch.errors import ExportError
from policy_patch.export.vllm_chat_template import check_no_loop_over_parts, prove, vllm_chat_template, wrapped
from policy_patch.patch.prompt_embeds import PLACEHOLDER, Stack
from tests.tiny_models import BOS, tiny_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
LITERAL_BOS = "<s>\n" + CHATML
IN_THE_FIRST_TURN = (  # as Llama 2 and Mistral: the system text goes into the first turn of the user
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ (system if loop.first else '') + "
    "message.content }} [/INST]{% else %}{{ message.content }}</s>{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + WITH_BOS
LOOPS = (
    "{% for message in messages %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}",
    "{% for message in messages %}{% for part in message['content'] | list %}{{ part }}{% endfor %}{% endfor %}",
    "{% for message in messages %}{% set content = message.content %}{% for c in content %}{{ c }}{% endfor %}"
    "{% endfor %}",
    "{% macro show(it) %}{% for c in it %}{{ c }}{% endfor %}{% endmacro %}"
    "{% for message in messages %}{{ show(message.content) }}{% endfor %}",
)
AFTER_BOS = Stack(torch.ones(2, 4), bos_token_id=BOS)
MESSAGES = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]


def rendered(template, messages):
    return tiny_tokenizer().apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )


@pytest.mark.parametrize("original", [WITH_BOS, CHATML, LITERAL_BOS, IN_THE_FIRST_TURN, WITH_BOS + "\n"])
def test_the_vectors_stand_right_after_bos_or_first_and_nothing_else_changes(original):
    found = vllm_chat_template(tiny_tokenizer(), AFTER_BOS, original)
    plain = rendered(original, MESSAGES)
    assert rendered(found, MESSAGES) == plain
    start = len("<s>") if plain.startswith("<s>") else 0
    expected = plain[:start] + PLACEHOLDER + plain[start:]
    assert rendered(found, [{"role": "system", "content": PLACEHOLDER}, *MESSAGES]) == expected
    joined = [{"role": "system", "content": f"{PLACEHOLDER}\n\nS"}, MESSAGES[1]]
    assert rendered(found, joined) == expected


def test_a_patch_before_bos_goes_first():
    found = vllm_chat_template(tiny_tokenizer(), Stack(torch.ones(2, 4), "before_bos", BOS), WITH_BOS)
    given = [{"role": "system", "content": PLACEHOLDER}, MESSAGES[1]]
    assert rendered(found, given) == PLACEHOLDER + rendered(WITH_BOS, MESSAGES[1:])


def test_a_template_that_refuses_some_conversations_is_proved_with_the_others():
    assert "no" in vllm_chat_template(tiny_tokenizer(), AFTER_BOS, NO_SYSTEM)
    with pytest.raises(ExportError, match="renders none of the four conversations"):
        vllm_chat_template(tiny_tokenizer(), AFTER_BOS, "{{ raise_exception('never') }}")


@pytest.mark.parametrize("place", ["in a text", "in a later message"])
def test_vectors_anywhere_else_are_refused_by_the_template_itself(place):
    found = vllm_chat_template(tiny_tokenizer(), AFTER_BOS, WITH_BOS)
    given = {
        "in a text": [{"role": "system", "content": f"{PLACEHOLDER} x"}, MESSAGES[1]],
        "in a later message": [MESSAGES[0], {"role": "user", "content": f"x {PLACEHOLDER}"}],
    }[place]
    with pytest.raises(Exception, match=r"Vectors are taken at the start|other text in it"):
        rendered(found, given)


@pytest.mark.parametrize("template", LOOPS)
def test_a_template_that_loops_over_parts_is_refused(template):
    with pytest.raises(ExportError, match="loops over the parts of a message's content"):
        vllm_chat_template(tiny_tokenizer(), AFTER_BOS, template)


@pytest.mark.parametrize("template", [WITH_BOS, IN_THE_FIRST_TURN, wrapped(WITH_BOS, "<s>")])
def test_loops_over_messages_are_no_loops_over_parts(template):
    check_no_loop_over_parts(template)


@pytest.mark.parametrize(
    "wrong",
    [
        WITH_BOS,  # the vectors' word inside the system turn
        wrapped(WITH_BOS, None),  # before BOS
        wrapped(WITH_BOS, "<s>").replace("+ policy_patch_word +", "+ policy_patch_word + ' ' +"),
        wrapped(WITH_BOS, "<s>").replace(
            "policy_patch_rest[2:]", "policy_patch_rest[1:]"
        ),  # a line break more in the system text
        wrapped(WITH_BOS + " ", "<s>"),  # not the base's own without vectors
    ],
)
def test_the_proof_finds_what_is_wrong(wrong):
    prove(tiny_tokenizer(), WITH_BOS, wrapped(WITH_BOS, "<s>"), AFTER_BOS)
    with pytest.raises(ExportError, match="could not be proved"):
        prove(tiny_tokenizer(), WITH_BOS, wrong, AFTER_BOS)


def test_the_tokenizer_is_not_changed_and_one_without_a_template_is_refused():
    tokenizer = tiny_tokenizer()
    before = copy.deepcopy(tokenizer.get_vocab())
    with pytest.raises(ExportError, match="has no chat template"):
        vllm_chat_template(tokenizer, AFTER_BOS)
    tokenizer.chat_template = WITH_BOS
    assert vllm_chat_template(tokenizer, AFTER_BOS)
    assert tokenizer.get_vocab() == before
    with pytest.raises(ExportError, match="no Jinja template"):
        vllm_chat_template(tokenizer, AFTER_BOS, "{% for %}")
