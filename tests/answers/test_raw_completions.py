"""Raw completions of a llama.cpp with one of our files are refused before anything is asked; all else is left alone."""

import json

import pytest

from policy_patch.answers.answering import Sampling
from policy_patch.answers.endpoint import OpenAIEndpoint
from policy_patch.answers.raw_completions import TEMPLATE_MARK
from policy_patch.errors import EndpointError
from policy_patch.export.chat_template import with_patch_tokens
from policy_patch.export.patch_tokens import PatchTokens
from tests.answers.test_endpoint import Misbehaving
from tests.loopback import served_by

SAMPLING = Sampling(num_samples=1, max_new_tokens=8, top_p=0.9, temperature=1.0, batch_size=8, seed=0)
TOKENS = PatchTokens("0" * 32, {"tox": (7, 8)}, {"tox": ("tox",)}, "tox")
TEMPLATE = with_patch_tokens("{{ messages[0]['content'] }}", TOKENS, "<s>")
ANSWER = {"choices": [{"text": " a", "finish_reason": "stop", "index": 0}]}
CHAT = {"choices": [{"message": {"role": "assistant", "content": " a"}, "finish_reason": "stop", "index": 0}]}


class Described(Misbehaving):
    body, said, statuses = ANSWER, {}, ()

    def do_GET(self):
        """Say what the server says of itself; the statuses are used up one by one."""
        self.asked.append((self.path, self.headers["Authorization"]))
        status = self.statuses.pop(0) if self.statuses else 200
        content = self.said if isinstance(self.said, bytes) else json.dumps(self.said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    handler = type("Told", (Described,), {"requests": [], "asked": []})
    with served_by(handler) as address:
        yield handler, address


def ask(url, **settings):
    return OpenAIEndpoint("m", url, max_retries=2, **settings).answer(["You"], SAMPLING, occurrences=[0])


def test_the_mark_is_in_every_template_with_patch_tokens():
    assert TEMPLATE_MARK in TEMPLATE
    assert TEMPLATE_MARK in with_patch_tokens("x", TOKENS, None)


@pytest.mark.parametrize("field", ["chat_template", "chat_template_tool_use"])
def test_raw_completions_of_a_file_with_patches_are_refused_before_a_prompt_is_sent(server, field):
    handler, url = server
    handler.said = {"chat_template": "x", field: TEMPLATE}
    with pytest.raises(EndpointError, match=r"raw completions are those of the base.*`chat:m@\.\.\.`.*`chat=True`"):
        ask(url)
    assert handler.requests == []
    assert handler.asked == [("/props?model=m", "Bearer none")]


def test_chat_of_the_same_server_is_answered_and_not_looked_into(server):
    handler, url = server
    handler.said, handler.body = {"chat_template": TEMPLATE}, CHAT
    assert ask(url, chat=True)[0][0].text == " a"
    assert handler.asked == []


def test_one_replica_with_such_a_file_is_enough(server):
    handler, url = server
    handler.said = {"chat_template": TEMPLATE}
    plain = type("Told", (Described,), {"requests": [], "asked": []})
    with served_by(plain) as other, pytest.raises(EndpointError, match="raw completions"):
        ask([other, url])
    assert plain.requests == []


def test_a_server_that_loads_its_model_is_asked_again(server):
    handler, url = server
    handler.said, handler.statuses = {"chat_template": TEMPLATE}, [503, 503]
    with pytest.raises(EndpointError, match="raw completions"):
        ask(url)
    assert len(handler.asked) == 3 and handler.requests == []


@pytest.mark.parametrize(
    ("said", "statuses"),
    [
        ({"chat_template": "{{ messages }}"}, []),
        ({"chat_template": None}, []),
        ([TEMPLATE], []),
        (b"no JSON", []),
        (b"\xff", []),
        ({"chat_template": TEMPLATE}, [404]),
        ({}, [500]),
        ({}, [401]),
    ],
)
def test_other_servers_answer_as_before_with_one_request_more_in_a_run(server, said, statuses):
    handler, url = server
    handler.said, handler.statuses = said, statuses
    endpoint = OpenAIEndpoint("m", url, max_retries=2)
    for _ in range(2):
        assert endpoint.answer(["You"], SAMPLING, occurrences=[0])[0][0].text == " a"
    assert len(handler.asked) == 1 and len(handler.requests) == 2
