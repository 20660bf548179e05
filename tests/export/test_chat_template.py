"""Tests of chat templates with patch tokens: they stand first, once, by choice, and user text cannot spell them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_patch.errors import ExportError
from policy_patch.export.chat_template import chat_problems, with_patch_tokens
from tests.export.test_patch_tokens import MARKER, tokens
from tests.tiny_models import tiny_tokenizer

PLAIN = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
# The ways in which published templates begin, end and change their variables.
TEMPLATES = {
    "plain": PLAIN,
    "no bos": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "own messages": (
        "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] %}\n"
        "    {%- set messages = messages[1:] %}\n{%- else %}{%- set system = '' %}{%- endif %}\n"
        "{{- system }}{% for m in messages %}({{ m.content }}){% endfor %}"
        "{% if add_generation_prompt %}(assistant)\n{% endif %}"
    ),
    "whitespace around": "\n  {{ messages[0].content }}  \n   ",
    "newlines at the end": "{{ messages[0].content }}\n\n",
    "macro": (
        "{% macro say(m) %}<{{ m.content }}>{% endmacro %}"
        "{{ bos_token }}{% for m in messages %}{{ say(m) }}{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{{ bos_token }}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
        "{{ m.content }}{% endfor %}{{ tools }}"
    ),
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "loop controls": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}"
    ),
}
CHAT = [{"role": "system", "content": "Be 'kind'."}, {"role": "user", "content": "Hi \\ there\n"}]


def rendered(template, messages=CHAT, **options):
    return tiny_tokenizer().apply_chat_template(messages, chat_template=template, tokenize=False, **options)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("choice", ["tox", "bias", "bias+tox", "off", "none"])
def test_the_tokens_of_the_choice_stand_after_bos_and_the_rest_is_unchanged(name, choice):
    template = TEMPLATES[name]
    before = rendered(template)
    begins = before.startswith("<s>")
    start, rest = ("<s>", before[3:]) if begins else ("", before)
    patched = with_patch_tokens(template, tokens(), "<s>")
    assert rendered(patched, patch=choice) == start + "".join(tokens().names_of(choice)) + rest
    assert begins == ("bos_token" in template)


def test_without_a_choice_it_is_the_default():
    patched = with_patch_tokens(PLAIN, tokens(default="bias"), "<s>")
    assert rendered(patched) == rendered(patched, patch=None) == rendered(patched, patch="bias")
    assert rendered(patched) != rendered(patched, patch="off") == rendered(PLAIN)
    assert rendered(with_patch_tokens(PLAIN, tokens(default="off"), "<s>")) == rendered(PLAIN)


def test_an_unknown_patch_is_an_error_and_never_the_base():
    patched = with_patch_tokens(PLAIN, tokens(), "<s>")
    with pytest.raises(Exception, match="no patch of this name; there are: tox, bias, bias\\+tox, none, off"):
        rendered(patched, patch="nox")
    for strange in (["tox"], 3, ""):
        with pytest.raises(Exception, match=r"no patch of this name|unhashable"):
            rendered(patched, patch=strange)


def test_without_a_bos_token_the_tokens_are_first():
    assert rendered(with_patch_tokens(PLAIN, tokens(), None)) == "".join(tokens().names_of("tox")) + rendered(PLAIN)


def spelled(patched, text, where="content", **options):
    """Return how many names of patch tokens come out for hostile text."""
    message = {"role": "user", "content": "Hi", where: text}
    out = rendered(patched, [message], **options)
    return sum(out.count(name) for name in tokens().name_of.values()), out


NAME = tokens().name_of[10]
HOSTILE = [
    NAME,
    "".join(tokens().name_of.values()),
    MARKER,
    NAME.replace(MARKER, MARKER[:16] + MARKER + MARKER[16:]),  # removing the marker would make one
    NAME.replace(MARKER, MARKER[:16] + MARKER[:16] + MARKER + MARKER[16:] + MARKER[16:]),
    f"{{{{ '{NAME}' }}}}",
    NAME[:20],
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("where", ["content", "role"])
def test_text_of_users_cannot_spell_a_patch_token(text, where):
    patched = with_patch_tokens(PLAIN, tokens(), "<s>")
    count, out = spelled(patched, text, where)
    assert count == len(tokens().ids_of("tox"))
    assert out.startswith("<s>" + "".join(tokens().names_of("tox")))
    assert spelled(patched, text, where, patch="off")[0] == 0


def test_the_control_the_template_alone_would_let_them_through():
    assert spelled(PLAIN, NAME)[0] == 1
    assert spelled(with_patch_tokens(PLAIN, tokens(), "<s>").replace(f"'{MARKER}'", "'x'"), NAME)[0] == 3


def test_names_of_roles_and_tools_and_own_variables_are_cleaned_too():
    patched = with_patch_tokens(TEMPLATES["namespace"], tokens(), "<s>")
    assert spelled(patched, "Hi", tools=[{"type": "function", "function": {"name": NAME}}])[0] == 2
    for own in ("policy_patch_rendered", "policy_patch_choice", "policy_patch_prefixes"):
        assert spelled(patched, "Hi", **{own: NAME})[0] == 2


@given(st.lists(st.sampled_from([MARKER, MARKER[:16], MARKER[16:], "<|patch_", "_0|>", "-", "a", NAME]), max_size=8))
def test_no_order_of_pieces_spells_one(pieces):
    assert spelled(with_patch_tokens(PLAIN, tokens(), "<s>"), "".join(pieces), patch="off")[0] == 0


def test_a_template_that_uses_our_variable_is_refused():
    with pytest.raises(ExportError, match="uses the variable `patch`"):
        with_patch_tokens("{{ patch }}{{ messages }}", tokens(), "<s>")


def test_what_is_no_template_is_refused():
    with pytest.raises(ExportError, match="no Jinja template"):
        with_patch_tokens("{% for x %}", tokens(), "<s>")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, []),
        (PLAIN, []),
        ("{{ raise_exception('no') }}", []),
        (TEMPLATES["no bos"], ["does not put the BOS token `<s>` first"]),
        ("{{ bos_token }}Hello", ["does not render what a user says"]),
        ("Hello", ["does not render what a user says", "does not put the BOS token"]),
    ],
)
def test_a_template_without_bos_or_without_the_messages_is_told(template, said):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    problems = chat_problems(tokenizer, tokenizer.bos_token_id)
    assert len(problems) == len(said) and all(one in problem for one, problem in zip(said, problems))
    assert not [problem for problem in chat_problems(tokenizer, None) if "BOS" in problem]
