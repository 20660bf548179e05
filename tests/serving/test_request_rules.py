"""Tests of what a request may ask: nothing that could move, cut or switch the patch, and no embeddings of clients."""

import pytest

from policy_patch.errors import ServingError
from policy_patch.serving.patched_requests import baked_chat
from policy_patch.serving.request_rules import check_request

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def test_usual_requests_pass():
    check_request(
        {"model": "m", "prompt": "x", "max_tokens": 3, "stop": ["a"], "echo": False, "suffix": None}, "completions"
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    check_request({**CHAT, "tools": tools, "chat_template_kwargs": {"enable_thinking": False}}, "chat")
    check_request({**CHAT, "messages": [{"role": "user", "content": "What are prompt_embeds in vLLM?"}]}, "chat")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompt_embeds": "x"}, "`prompt_embeds` cannot be given with a patch: embeddings are added"),
        ({"echo": True}, "`echo` cannot be given"),
        ({"truncate_prompt_tokens": 3}, "would cut off the patch"),
        ({"add_special_tokens": True}, "second BOS"),
        ({"chat_template": "x"}, "another template"),
        ({"temprature": 1}, "`temprature` is not known.*Did you mean `temperature`"),
        ({"add_bos_token": False}, "`add_bos_token` is not known to leave the patch"),
        ({"chat_template_kwargs": {"patch": "none"}}, "`chat_template_kwargs` has one of"),
        ({"chat_template_kwargs": {"bos_token": ""}}, "`chat_template_kwargs` has one of"),
        ({"chat_template_kwargs": "x"}, "`chat_template_kwargs` has one of"),
        ({"messages": [{"role": "system", "content": [{"type": "prompt_embeds", "data": "x"}]}]}, "part of the type"),
        ({"messages": [{"role": "user", "content": [{"prompt_embeds": "x"}]}]}, "`prompt_embeds` cannot be given"),
        ({"messages": [{"role": "user", "content": [{"image_embeds": "x"}]}]}, "`image_embeds` cannot be given"),
        ({"messages": [{"role": "user", "content": "a <prompt_embeds> b"}]}, "has the word `<prompt_embeds>`"),
        ({"tools": [{"function": {"description": "<prompt_embeds>"}}]}, "has the word `<prompt_embeds>`"),
        ({"tools": [{"function": {"parameters": {"<prompt_embeds>": 1}}}]}, "has the word `<prompt_embeds>`"),
    ],
)
def test_what_could_change_the_patch_is_refused(more, message):
    check_request(CHAT, "chat")
    with pytest.raises(ServingError, match=message):
        check_request({**CHAT, **more}, "chat")


def test_a_baked_engine_is_not_asked_to_go_on_with_an_answer_which_may_pass_the_template():
    assert baked_chat(CHAT, "tox")["chat_template_kwargs"] == {"patch": "tox"}
    begun = [*CHAT["messages"], {"role": "assistant", "content": "<|patch_0|> Sure"}]
    with pytest.raises(ServingError, match=r"The last message is the assistant's\. .* End with a message of the user"):
        baked_chat({**CHAT, "messages": begun}, "tox")
    assert baked_chat({**CHAT, "messages": [*begun, *CHAT["messages"]]}, "tox")["messages"][1] == begun[1]
