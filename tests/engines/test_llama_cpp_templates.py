"""Tests of chat templates with patch tokens in llama.cpp, which renders Jinja with an engine of its own.

Each style of template renders there as in transformers, for each choice of a patch. The styles are those of Llama 3,
Qwen, Mistral and Gemma, and one with a namespace and a macro.
"""

import pytest

from policy_patch.export.chat_template import with_patch_tokens
from policy_patch.export.gguf_file import write_gguf
from policy_patch.export.gguf_folder import gguf_of_folder
from policy_patch.export.patch_tokens import PatchTokens, choices_of
from policy_patch.lab import load_lab_tokenizer
from policy_patch.lab.checkpoints import LAB_MODELS_PATH
from tests.engines.llama_cpp import WHY, llama_cpp

pytest.importorskip("xllamacpp", reason=WHY)
TOKENS = PatchTokens(
    "0123456789abcdef" * 2, {"tox": (1536, 1537), "bias": (1538,)}, choices_of(["tox", "bias", ("tox", "bias")]), "tox"
)
STYLES = {
    "bos with the first message": (
        "{% set all = messages %}{% for message in all %}"
        "{% set content = '<|h|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|e|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|h|>assistant\\n\\n' }}{% endif %}"
    ),
    "no bos, tools, white space": """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system") or not message.tool_calls %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "alternating roles": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
        "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "renamed roles": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<turn>' + role + '\\n' + message['content'] | trim + '</turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"
    ),
    "namespace and macro": (
        "{%- set ns = namespace(sys='') -%}{%- macro part(m) -%}<{{ m.role }}>{{ m.content }}{%- endmacro -%}"
        "{%- for m in messages -%}{%- if m.role == 'system' -%}{%- set ns.sys = ns.sys + m.content -%}{%- endif -%}"
        "{%- endfor -%}{{ bos_token }}{{ ns.sys }}{%- for m in messages if m.role != 'system' -%}{{ part(m) }}"
        "{%- endfor -%}{%- if add_generation_prompt %}<a>{% endif %}"
    ),
}
TALKS = (
    [{"role": "user", "content": " Hi  \n"}],
    [{"role": role, "content": text} for role, text in zip(["user", "assistant", "user"], ["Hi", "yes", "ok"])],
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("lab") / "base.gguf"
    write_gguf(path, gguf_of_folder(LAB_MODELS_PATH / "base"))
    return path


@pytest.mark.parametrize("style", STYLES)
def test_llama_cpp_renders_templates_with_patch_tokens_as_transformers_does(file, style):
    tokenizer = load_lab_tokenizer()
    template = with_patch_tokens(STYLES[style], TOKENS, "<s>")
    found = {}
    with llama_cpp(file, chat_template=template) as engine:
        for number, talk in enumerate(TALKS):
            for choice in (None, "bias", "tox+bias", "off", "none"):
                kwargs = {} if choice is None else {"patch": choice}
                expected = tokenizer.apply_chat_template(
                    talk, chat_template=template, tokenize=False, add_generation_prompt=True, **kwargs
                )
                got = engine.post("/apply-template", messages=talk, chat_template_kwargs=kwargs)["prompt"]
                assert got == expected.removeprefix("<s>")  # which llama.cpp adds when it makes tokens of the text
                prefix = "".join(TOKENS.names_of(choice))
                assert got.startswith(prefix) and "<|patch_" not in got[len(prefix) :]
                found[number, choice] = got
    assert found[0, "off"] == found[0, "none"] and len({found[0, choice] for choice in (None, "bias", "off")}) == 3
    assert all(found[number, None] == "".join(TOKENS.names_of()) + found[number, "off"] for number in (0, 1))


def test_a_request_with_tools_carries_the_patch(file):
    template = with_patch_tokens(STYLES["no bos, tools, white space"], TOKENS, "<s>")
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    with llama_cpp(file, chat_template=template) as engine:
        got = engine.post("/apply-template", messages=TALKS[0], tools=tools)["prompt"]
    assert got.startswith("".join(TOKENS.names_of()) + "<|im_start|>system\n# Tools\n{")
