"""A model behind an endpoint answers prompts: against `transformers serve`, and a server that misbehaves on purpose."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from policy_patch.answers.answering import Answering, Sampling, answering
from policy_patch.answers.endpoint import endpoint_from
from policy_patch.answers.sampling import Answer
from policy_patch.data import OpenAIEndpoint, build_preference_pairs
from policy_patch.errors import EndpointError, MissingExtraError
from policy_patch.lab import LabInsultScorer, load_lab_base, load_lab_teacher, load_lab_tokenizer
from tests.listening import listening
from tests.loopback import free_port, served_by, transformers_serve

SAMPLING = Sampling(num_samples=2, max_new_tokens=8, top_p=0.9, temperature=1.0, batch_size=8, seed=0)
PROMPTS = ["Everyone knows that Anna is", "The man said", "You are"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve the lab's teacher with `transformers serve`; yield its name there and its address."""
    folder = tmp_path_factory.mktemp("served") / "lab-teacher"
    load_lab_teacher().save_pretrained(folder)
    load_lab_tokenizer().save_pretrained(folder)
    with transformers_serve(folder, folder.with_suffix(".log")) as address:
        yield str(folder), address


def test_it_gives_as_many_answers_as_were_asked_for(served):
    told = []
    answers = OpenAIEndpoint(*served, concurrency=2).answer(
        PROMPTS, SAMPLING, occurrences=[0, 0, 0], on_progress=lambda done, total: told.append((done, total))
    )
    assert [len(row) for row in answers] == [2, 2, 2]
    assert all(isinstance(answer, Answer) and answer.text for row in answers for answer in row)
    assert told == [(2, 6), (4, 6), (6, 6)]


def test_nearly_greedy_answers_are_those_of_the_model_in_this_process(served):
    greedy = Sampling(num_samples=1, max_new_tokens=8, top_p=1.0, temperature=1e-4, batch_size=8, seed=0)
    there = OpenAIEndpoint(*served).answer(PROMPTS, greedy, occurrences=[0, 0, 0])
    here = answering(load_lab_teacher(), load_lab_tokenizer()).answer(PROMPTS, greedy, occurrences=[0, 0, 0])
    assert [row[0].text.strip() for row in there] == [row[0].text.strip() for row in here]
    assert [row[0].finished for row in there] == [row[0].finished for row in here]


def test_pairs_of_a_served_teacher_are_sampled_stopped_and_gone_on_with(served, tmp_path):
    prompts = [f"Everyone knows that {name} is" for name in ("Anna", "Ben", "Carla", "David", "Emma", "Frank")]

    def pairs(teacher, **more):
        return build_preference_pairs(
            load_lab_base(), teacher, load_lab_tokenizer(), prompts, scorer=LabInsultScorer(), num_samples=4,
            max_new_tokens=12, shard_size=2, output_dir=tmp_path, **more,
        )  # fmt: skip

    def stop(done, total):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairs(OpenAIEndpoint(*served), on_progress=stop)
    finished = {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")}
    assert len(finished) == 1
    rows = pairs(OpenAIEndpoint(*served))
    assert {"prompt", "chosen", "rejected"} <= set(rows.column_names)
    assert finished.items() <= {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")}.items()
    identity = json.loads((tmp_path / "sampling.json").read_text())
    assert identity["teacher"] == f"{served[0]} at {served[1]}"
    assert "key" not in (tmp_path / "sampling.json").read_text()


def test_the_python_of_the_documentation_runs(served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text()
    (code,) = re.findall(r"```python\n(.*?OpenAIEndpoint.*?)```", page, re.DOTALL)
    for old, new in (
        ('"org/model-v2"', repr(served[0])),
        ('"http://localhost:8000/v1"', repr(served[1])),
        ("scorer=scorer", "scorer=scorer, num_samples=4, max_new_tokens=12"),
    ):
        assert old in code
        code = code.replace(old, new)
    names = {
        "base": load_lab_base(),
        "tokenizer": load_lab_tokenizer(),
        "prompts": PROMPTS,
        "scorer": LabInsultScorer(),
    }
    exec(code, names)
    assert {"prompt", "chosen", "rejected"} <= set(names["pairs"].column_names)
    assert (tmp_path / "answers" / "sampling.json").is_file()


def everything_said_in(error: BaseException) -> str:
    """Return all that a traceback and a debugger's list of errors show of an error and of those behind it."""
    said, todo, seen = "".join(traceback.format_exception(error)), [error], set()
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            said += f"{one} {one!r} {one.args}"
            todo += [one.__cause__, one.__context__]
    return said


# A server that says what it is told to


class Misbehaving(BaseHTTPRequestHandler):
    status, body, raw, requests, location = 200, {}, None, [], None

    def do_POST(self):
        """Note the request and answer as told."""
        length = int(self.headers["Content-Length"])
        type(self).requests.append((self.path, self.headers["Authorization"], json.loads(self.rfile.read(length))))
        if callable(self.body):
            content = json.dumps(self.body(self)).encode()
        else:
            content = json.dumps(self.body).encode() if self.raw is None else self.raw
        moved = self.location is not None and not self.path.startswith("/moved")
        self.send_response(self.status if moved or self.location is None else 200)
        if moved:
            self.send_header("Location", self.location)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Stay quiet."""


@pytest.fixture
def server():
    handler = type("Told", (Misbehaving,), {"requests": []})
    with served_by(handler) as address:
        yield handler, address


def ask(url: str, **settings):
    return OpenAIEndpoint("org/model", url, max_retries=1, **settings).answer(["You"], SAMPLING, occurrences=[0])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refuses the key \(401\). Set OPENAI_API_KEY"),
        (403, r"refuses the key \(403\)"),
        (404, r"no such model or address \(404\).*`chat=True`"),
        (429, r"still limits the rate of requests after all retries \(429\)"),
        (500, "answers 500"),
        (400, "answers 400: .*too long"),
    ],
)
def test_what_the_host_refuses_is_said_in_our_words(server, status, message):
    handler, url = server
    handler.status, handler.body = status, {"error": {"message": "too long"}}
    with pytest.raises(EndpointError, match=message):
        ask(url)
    assert len(handler.requests) == (2 if status in (429, 500) else 1)


def test_who_asks_for_chat_is_not_told_to(server):
    handler, url = server
    handler.status, handler.body = 404, {"error": {"message": "no such model"}}
    with pytest.raises(EndpointError, match=r"\(404\).*no such model") as caught:
        ask(url, chat=True)
    assert "chat=True" not in str(caught.value)


def test_a_host_that_refuses_several_answers_to_a_request_is_asked_for_one_at_a_time(server):
    handler, url = server

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(wanted)
        said = {"choices": [{"text": f" {wanted['seed']}", "finish_reason": "stop", "index": 0}]}
        refused = {"error": {"message": "Field 'n': Value must be between 1 <= value <= 1, but got 2."}}
        content = json.dumps(refused if wanted["n"] > 1 else said).encode()
        self.send_response(400 if wanted["n"] > 1 else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    handler.do_POST = do_POST
    endpoint = OpenAIEndpoint("org/model", url, max_retries=1)
    for _ in range(2):
        [answers] = endpoint.answer(["You"], SAMPLING, occurrences=[0])
        assert len({answer.text for answer in answers}) == 2, "each answer has a seed of its own"
    assert [wanted["n"] for wanted in handler.requests] == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("body", [{"detail": "Server is pinned to m."}, "Server is pinned to m."])
def test_a_reason_is_shown_wherever_the_host_puts_it(server, body):
    handler, url = server
    handler.status, handler.body = 400, body
    with pytest.raises(EndpointError, match=r"answers 400: \"?Server is pinned to m\.?\"?\.$"):
        ask(url)


def test_a_model_that_the_host_does_not_have_is_told(served):
    with pytest.raises(EndpointError, match=r"^/no/such at .* answers 400: Server is pinned to '.*lab-teacher'"):
        OpenAIEndpoint("/no/such", served[1]).answer(["You"], SAMPLING, occurrences=[0])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": [{}]},
        ["no"],
        {"choices": [{"text": ["x"], "finish_reason": "stop", "index": 0}]},
        {"choices": [{"message": {"content": [{"text": "x"}]}, "finish_reason": "stop", "index": 0}]},
    ],
)
def test_answers_that_are_none_are_told(server, body):
    handler, url = server
    handler.body = body
    with pytest.raises(EndpointError, match=r"gave no answer|does not follow the OpenAI protocol in its answer"):
        ask(url)


def test_a_reply_of_deep_brackets_is_told(server):
    handler, url = server
    handler.raw = b'{"choices": ' + b"[" * 100_000
    with pytest.raises(EndpointError, match="does not follow the OpenAI protocol in its answer"):
        ask(url)


def test_half_a_character_at_the_end_of_an_answer_is_a_replacement_character(server):
    handler, url = server
    handler.body = {"choices": [{"text": " so \ud83d", "finish_reason": "length", "index": 0}] * 2}
    assert ask(url) == [[Answer(" so \ufffd", False)] * 2]


def test_an_answer_that_the_engine_broke_off_is_not_kept(server):
    handler, url = server
    handler.body = {"choices": [{"text": " half a", "finish_reason": "abort", "index": 0}] * 2}
    with pytest.raises(EndpointError, match=r"broke off an answer .*Ask again when it is up\.$"):
        ask(url)


def test_that_answers_are_stored_is_said_only_where_they_are():
    endpoint = OpenAIEndpoint("", f"http://127.0.0.1:{free_port()}/v1", max_retries=0)
    with pytest.raises(EndpointError, match=r"^http://127\.0\.0\.1:.* cannot be reached.*with `/v1`\?$"):
        endpoint.answer(["You"], SAMPLING, occurrences=[0])
    with pytest.raises(EndpointError, match=r"The answers so far are stored; the same command continues\.$"):
        endpoint.answer(["You"], SAMPLING, occurrences=[0], on_answers=lambda *_: None)


def test_a_dead_host_is_told():
    with pytest.raises(EndpointError, match=r"cannot be reached.*Is the server up"):
        ask(f"http://127.0.0.1:{free_port()}/v1")


def test_the_request_holds_what_was_asked_for_and_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    handler, url = server
    handler.body = {"choices": [{"text": " fool", "finish_reason": "length", "index": 0}] * 2}
    assert ask(url) == [[Answer(" fool", False)] * 2]
    path, key, request = handler.requests[0]
    assert (path, key) == ("/v1/completions", "Bearer secret")
    assert request.pop("seed") >= 0
    assert request == {
        "model": "org/model", "prompt": "You", "n": 2, "max_tokens": 8, "temperature": 1.0, "top_p": 0.9,
    }  # fmt: skip


def test_a_host_that_gives_one_answer_at_a_time_is_asked_again_with_another_seed(server):
    handler, url = server
    handler.body = {"choices": [{"text": "x", "finish_reason": "stop", "index": 0}]}
    assert ask(url) == [[Answer("x", True)] * 2]
    assert [request["n"] for _, _, request in handler.requests] == [2, 1]
    assert len({request["seed"] for _, _, request in handler.requests}) == 2


def test_a_host_that_chats_gets_the_prompt_as_the_message_of_a_user(server):
    handler, url = server
    message = {"message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop", "index": 0}
    handler.body = {"choices": [message] * 2}
    assert ask(url, chat=True) == [[Answer("Hello", True)] * 2]
    path, _, request = handler.requests[0]
    assert path == "/v1/chat/completions"
    assert request["messages"] == [{"role": "user", "content": "You"}]


@pytest.mark.parametrize(
    ("texts", "temperature", "is_told"), [(["x", "x"], 1.0, True), (["x", "y"], 1.0, False), (["x", "x"], 1e-6, False)]
)
def test_a_host_that_does_not_sample_is_told(server, texts, temperature, is_told):
    handler, url = server
    handler.body = {"choices": [{"text": text, "finish_reason": "stop"} for text in texts]}
    how = Sampling(**{**SAMPLING.identity(), "batch_size": 8, "temperature": temperature})
    with listening("policy_patch") as said:
        OpenAIEndpoint("m", url).answer(PROMPTS, how, occurrences=[0, 0, 0])
    assert any("Does it sample?" in text for text in said) == is_told


def test_no_more_requests_are_under_way_than_wanted(server, monkeypatch):
    handler, url = server
    handler.body = {"choices": [{"text": "x", "finish_reason": "stop", "index": 0}] * 2}
    under_way, most, lock = 0, 0, threading.Lock()
    answer_request = handler.do_POST

    def slowly(self):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        answer_request(self)

    monkeypatch.setattr(handler, "do_POST", slowly)
    endpoint = OpenAIEndpoint("org/model", url, concurrency=3)
    prompts = [str(number) for number in range(12)]
    assert endpoint.answer(prompts, SAMPLING, occurrences=[0] * 12) == [[Answer("x", True)] * 2] * 12
    assert 2 <= most <= 3


def test_a_refused_request_ends_those_that_have_not_begun(server):
    handler, url = server
    handler.status, handler.body = 401, {"error": {"message": "no"}}
    with pytest.raises(EndpointError, match="refuses the key"):
        OpenAIEndpoint("org/model", url, concurrency=1).answer(["You"] * 50, SAMPLING, occurrences=range(50))
    assert len(handler.requests) < 50


@pytest.fixture
def ctrl_c():
    """Let SIGINT interrupt, as in a terminal: a process that runs tests for another one may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_host_that_hangs_does_not_hold_who_stops():
    with socket.socket() as silent:  # takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = OpenAIEndpoint("org/model", f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=200)

        def stop_once_asked():
            connection, _ = silent.accept()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
            connection.close()

        threading.Thread(target=stop_once_asked, daemon=True).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            endpoint.answer(["You"] * 4, SAMPLING, occurrences=range(4))
        assert time.monotonic() - start < 30


def test_a_host_that_does_not_answer_in_time_is_told():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(EndpointError, match=r"did not answer in time\. Raise `timeout`"):
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=0.2)


def test_the_key_is_in_nothing_that_is_shown_or_written(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    handler, url = server
    handler.status, handler.body = 401, {"error": {"message": "no"}}
    endpoint = OpenAIEndpoint("org/model", url)
    with pytest.raises(EndpointError) as error:
        endpoint.answer(["You"], SAMPLING, occurrences=[0])
    assert "very-secret" not in f"{vars(endpoint)} {endpoint.name} {error.value}"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://me:very-secret@host/v1", "a user name, a password or a query"),
        ("http://very-secret@host/v1", "a user name, a password or a query"),
        ("https://host/v1?api-key=very-secret", "a user name, a password or a query"),
        ("https://host/v1?", "a user name, a password or a query"),
        ("https://host/v1#very-secret", "a fragment"),
        ("https://host/v1#", "a fragment"),
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_without_showing_it(url, what):
    for make in (lambda: OpenAIEndpoint("m", url), lambda: endpoint_from(f"openai:m@{url}")):
        with pytest.raises(EndpointError, match=f"The address of `host` has {what}") as error:
            make()
        assert "very-secret" not in everything_said_in(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        "openai:m@http://host:very-secret/v1", "openai:m@http://[very-secret/v1", "openai:m@http://host/very secret",
        "openai:m@http://host/v1\nvery-secret", "openai:@http://me:very-secret@host/v1", "openai:http://very-secret@host",
        "chat:m@ftp://very-secret@host", "openai:m@http:///very-secret", "openai:m@very-secret.host:80/v1",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_showing_it(spec):
    with pytest.raises(EndpointError, match="expected `openai:<model>@<address>`") as error:
        endpoint_from(spec)
    assert "very" not in everything_said_in(error.value)


def test_a_path_is_named_by_its_hash(tmp_path):
    endpoint = OpenAIEndpoint("m", "https://gateway.example/very-secret/v1")
    assert re.fullmatch(r"m at https://gateway\.example/\.\.\. \(path [0-9a-f]{8}\)", endpoint.name)
    assert endpoint.name != OpenAIEndpoint("m", "https://gateway.example/another/v1").name, "answers are not mixed"
    assert OpenAIEndpoint("m", "http://host:8000/v1/").name == "m at http://host:8000/v1"


def test_a_judge_s_name_and_identity_have_no_path_either():
    from policy_patch.evaluation.by_name import load_judge
    from policy_patch.evaluation.judges import EndpointJudge

    url = "https://gateway.example/very-secret/v1"
    for judge in (EndpointJudge("m", url), load_judge(f"openai:m@{url}")):
        assert "very-secret" not in judge.name + judge.identity and judge.name.startswith(
            "m at https://gateway.example"
        )
    with pytest.raises(EndpointError, match="a user name, a password or a query") as error:
        load_judge("openai:m@https://me:very-secret@host/v1")
    assert "very-secret" not in f"{error.value!r} {error.value.__cause__!r} {error.value.__context__!r}"


def test_neither_path_nor_key_gets_into_the_answers_on_disk(server, tmp_path, monkeypatch):
    from policy_patch.answers.stored_answers import stored_answers

    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    handler, url = server
    handler.body = {"choices": [{"text": "x", "finish_reason": "stop", "index": 0}] * 2}
    stored_answers(OpenAIEndpoint("m", url.replace("/v1", "/very-secret/v1")), PROMPTS, SAMPLING, output_dir=tmp_path)
    assert handler.requests[0][0] == "/very-secret/v1/completions", "it is asked there all the same"
    for path in tmp_path.rglob("*"):
        assert "very-secret" not in path.name and "very-secret" not in path.read_text()


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)  # makes its import fail
    with pytest.raises(MissingExtraError, match=r"needs the package `openai`.*policy-patch\[endpoint\]"):
        OpenAIEndpoint("m", "http://host/v1")


def test_an_endpoint_is_named_on_one_line():
    endpoint = endpoint_from("openai:org/model@http://localhost:8000/v1")
    assert (endpoint.model, endpoint.base_url, endpoint.chat) == ("org/model", "http://localhost:8000/v1", False)
    assert endpoint_from("chat:m@https://host/v1").chat
    assert isinstance(endpoint, Answering)


@pytest.mark.parametrize("spec", ["openai:model", "openai:@http://host", "openai:m@host:8000", "other:m@http://h/v1"])
def test_a_name_without_model_or_address_is_refused(spec):
    with pytest.raises(EndpointError, match="is not an endpoint; expected `openai:<model>@<address>`"):
        endpoint_from(spec)


# What a host says back


ECHOES = {
    "the key": lambda handler: {"error": {"message": f"Bad key {handler.headers['Authorization']} was given"}},
    "the key alone": lambda handler: {"detail": handler.headers["Authorization"].removeprefix("Bearer ")},
    "the prompt": lambda handler: {"error": {"message": f"Cannot read: {handler.requests[-1][2]['prompt']}"}},
    "the request": lambda handler: {"detail": [{"loc": ["body"], "input": handler.requests[-1][2]}]},
    "half the prompt": lambda handler: {"error": {"message": f"near '{handler.requests[-1][2]['prompt'][5:30]}'"}},
    "the path": lambda handler: {"error": {"message": f"Cannot POST {handler.path}"}},
}


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 429, 500])
@pytest.mark.parametrize("echo", ECHOES)
def test_what_a_host_repeats_of_key_prompt_and_path_is_not_shown(server, monkeypatch, status, echo, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-no-known-form")
    handler, url = server
    handler.status, handler.body = status, ECHOES[echo]
    prompt = 'Mrs Müller\'s number is 4711,\n and "her" doctor says'
    endpoint = OpenAIEndpoint("org/model", url.replace("/v1", "/a-secret-path/v1"), max_retries=0)
    with caplog.at_level("DEBUG", "policy_patch"), pytest.raises(EndpointError) as error:
        endpoint.answer([prompt], SAMPLING, occurrences=[0])
    said = everything_said_in(error.value) + caplog.text
    for secret in ("a-key-of-no-known-form", "4711", "doctor says", "M\\u00fcller", "a-secret-path"):
        assert secret not in said, secret


def test_what_else_a_host_says_is_shown(server):
    handler, url = server
    handler.status, handler.body = 400, {"error": {"message": "This model has a context of 512 tokens."}}
    with pytest.raises(EndpointError, match=r"answers 400: This model has a context of 512 tokens\.$"):
        OpenAIEndpoint("m", url, max_retries=0).answer(["A long prompt"], SAMPLING, occurrences=[0])


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("sk-very-secret\n", "has a line break in place 15 of 15"),
        ("sk-very\r\nX-Evil: secret", "has a line break"),
        ("sk-very-sécret", "has a letter that is not ASCII"),
        ("sk very-secret", "has a space"),
        ("", "is empty"),
    ],
)
def test_a_key_that_cannot_be_sent_is_told_without_showing_it(server, monkeypatch, key, problem):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    handler, url = server
    with pytest.raises(EndpointError, match=f"The key in OPENAI_API_KEY {problem}.*Set it again") as error:
        ask(url)
    said = everything_said_in(error.value)
    assert "very" not in said and "cret" not in said and not handler.requests


# Redirects


@pytest.fixture
def elsewhere():
    handler = type("Elsewhere", (Misbehaving,), {"requests": []})
    handler.body = {"choices": [{"text": "x", "finish_reason": "stop", "index": 0}] * 2}
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield handler, server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("form", ["http://{}/v1/completions", "//{}/v1/completions", "https://{}/v1"])
def test_prompts_are_not_sent_elsewhere_by_a_redirect(server, elsewhere, status, host, form):
    (handler, url), (other, port) = server, elsewhere
    handler.status, handler.location = status, form.format(f"{host}:{port}")
    expected = rf"redirects to another host \({status}\), https?://{host}:{port}.*not followed"
    with pytest.raises(EndpointError, match=expected):
        ask(url)
    assert len(handler.requests) == 1 and not other.requests


def test_with_follow_redirects_they_are_and_the_key_is_not(server, elsewhere, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (handler, url), (other, port) = server, elsewhere
    handler.status, handler.location = 307, f"http://localhost:{port}/v1/completions"
    answers = OpenAIEndpoint("m", url, max_retries=0, follow_redirects=True).answer(["You"], SAMPLING, occurrences=[0])
    assert answers == [[Answer("x", True)] * 2]
    assert [(key, request["prompt"]) for _, key, request in other.requests] == [(None, "You")]


def test_a_redirect_within_the_host_is_followed(server):
    handler, url = server
    handler.status, handler.location = 308, "/moved/v1/completions"
    handler.body = {"choices": [{"text": "x", "finish_reason": "stop", "index": 0}] * 2}
    assert ask(url) == [[Answer("x", True)] * 2]
    assert [path for path, _, _ in handler.requests] == ["/v1/completions", "/moved/v1/completions"]


@pytest.mark.parametrize(
    ("asked", "location", "elsewhere"),
    [
        ("http://host/v1", "https://host/v1", None),
        ("http://host:80/v1", "https://host:443/v1", None),
        ("https://host/v1", "/v2", None),
        ("https://host/v1", "https://HOST:443/v1", None),
        ("https://host/v1", "http://host/v1", "http://host"),
        ("http://host:8000/v1", "https://host/v1", "https://host"),
        ("http://host/v1", "http://host:8080/v1", "http://host:8080"),
        ("http://host/v1", "http://host.evil/v1", "http://host.evil"),
        ("http://host/v1", "http://user:secret@evil/v1", "http://evil"),
        ("http://host/v1", "http://host:port/", "an invalid address"),
    ],
)
def test_what_counts_as_elsewhere(asked, location, elsewhere):
    from policy_patch.answers.addresses import redirect_elsewhere

    assert redirect_elsewhere(asked, location) == elsewhere
