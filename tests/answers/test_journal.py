"""Answers of a served model are on disk as they arrive: a run that breaks off asks none of them again."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from policy_patch.answers.endpoint import OpenAIEndpoint
from policy_patch.answers.journal import journalled_answers
from policy_patch.answers.protocol import Sampling
from policy_patch.answers.sampling import Answer
from policy_patch.answers.shards import Shard
from policy_patch.answers.stored_answers import stored_answers
from policy_patch.errors import DataError, EndpointError

SAMPLING = Sampling(num_samples=2, max_new_tokens=8, top_p=0.9, temperature=1.0, batch_size=8, seed=0)
PROMPTS = [f"prompt {number % 7}" for number in range(12)]  # some twice


class Echo(BaseHTTPRequestHandler):
    """Answers with the prompt and the seed, so that each answer is its own; dies after so many requests."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cls = type(self)
        with cls.lock:
            if cls.left == 0:
                cls.refused += 1
                self.server.socket.close() if cls.is_last else None
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            cls.left -= 1
            cls.asked.append((body["prompt"], body["seed"]))
        choices = [{"text": f"{body['prompt']} {body['seed']} {n}", "finish_reason": "stop"} for n in range(body["n"])]
        text = json.dumps({"id": "x", "object": "x", "created": 0, "model": "m", "choices": choices}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass


@pytest.fixture
def echo():
    """Start servers: each call returns its class, with what it was asked, and its address."""
    servers = []

    def start(left=-1):
        handler = type(
            "Echo", (Echo,), {"left": left, "asked": [], "refused": 0, "lock": threading.Lock(), "is_last": False}
        )
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return handler, f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def endpoint(*urls, **options):
    return OpenAIEndpoint("m", urls, concurrency=1, max_retries=options.pop("max_retries", 0), **options)


def test_a_run_that_breaks_off_asks_no_answer_twice(echo, tmp_path):
    handler, url = echo(left=5)
    with pytest.raises(EndpointError, match="cannot be reached"):
        stored_answers(endpoint(url), PROMPTS, SAMPLING, output_dir=tmp_path, on_progress=lambda *_: None)
    journal = tmp_path / "arrived-00000.jsonl"
    assert len(journal.read_text().splitlines()) == 5 and len(handler.asked) == 5
    time.sleep(0.1)  # for a request that should not be on its way
    assert handler.refused == 1, "the error ends the call, so no other request starts"
    with open(journal, "ab") as file:
        file.write(b'{"source": "half a li')  # a kill in the middle of a write
    handler.left, told = -1, []
    found = stored_answers(
        endpoint(url), PROMPTS, SAMPLING, output_dir=tmp_path, on_progress=lambda *each: told.append(each)
    )
    assert len(handler.asked) == 12 and len(set(handler.asked)) == 12, "nothing twice"
    assert not journal.exists() and (tmp_path / "shard-00000.jsonl").is_file()
    assert found == stored_answers(endpoint(url), PROMPTS, SAMPLING), "the same as in one go"
    assert told[0] == (12, 24) and told[-1] == (24, 24)


def test_a_replica_that_dies_during_the_run_loses_nothing(echo, tmp_path):
    (one, first), (two, second) = echo(left=3), echo()
    whole = stored_answers(endpoint(second), PROMPTS, SAMPLING)
    two.asked.clear()
    found = stored_answers(endpoint(first, second), PROMPTS, SAMPLING, output_dir=tmp_path)
    assert found == whole, "every prompt has its answers, in its place"
    assert len(one.asked) == 3 and len(two.asked) == 9 and not set(one.asked) & set(two.asked)


def test_if_all_replicas_die_the_run_goes_on_later(echo, tmp_path):
    (one, first), (two, second) = echo(left=3), echo(left=4)
    with pytest.raises(EndpointError):
        stored_answers(endpoint(first, second), PROMPTS, SAMPLING, output_dir=tmp_path)
    two.left = -1
    stored_answers(endpoint(first, second), PROMPTS, SAMPLING, output_dir=tmp_path)
    asked = one.asked + two.asked
    assert len(asked) == 12 == len(set(asked))


class Counting:
    """A source without a network."""

    name, gives_single_answers = "counting", True

    def __init__(self):
        self.asked = []

    def answer(self, prompts, sampling, *, occurrences, on_progress=None, on_answers=None):
        rows = [[Answer(f"{prompt}/{occurrence}", True)] * 2 for prompt, occurrence in zip(prompts, occurrences)]
        self.asked += list(zip(prompts, occurrences))
        for place, row in enumerate(rows):
            on_answers(place, row)
        return rows


def test_answers_of_another_seed_or_model_are_not_taken(tmp_path):
    shard = Shard(0, [0, 1], ["a", "a"], [0, 1], tmp_path / "new" / "arrived.jsonl")
    model = Counting()
    first = journalled_answers(model, shard, SAMPLING, on_progress=lambda *_: None)
    assert [row[0].text for row in first] == ["a/0", "a/1"]
    assert journalled_answers(model, shard, SAMPLING, on_progress=lambda *_: None) == first and len(model.asked) == 2
    other = Sampling(**{**SAMPLING.identity(), "seed": 5, "batch_size": 8})
    journalled_answers(model, shard, other, on_progress=lambda *_: None)
    assert len(model.asked) == 4
    model.name = "another"
    journalled_answers(model, shard, SAMPLING, on_progress=lambda *_: None)
    assert len(model.asked) == 6


@pytest.mark.parametrize("line", [b"{}", b"[", b'{"source": 1}', b"\xff", b'{"source": "SOURCE", "answers": 3}'])
def test_damaged_lines_count_as_missing(tmp_path, line):
    from policy_patch.answers.journal import _source

    model, shard = Counting(), Shard(0, [0], ["a"], [0], tmp_path / "arrived.jsonl")
    shard.journal.write_bytes(line.replace(b"SOURCE", _source(model, SAMPLING).encode()) + b"\n")
    assert journalled_answers(model, shard, SAMPLING, on_progress=lambda *_: None)[0][0].text == "a/0"


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    shard = Shard(0, [0], ["a"], [0], tmp_path / "file" / "arrived.jsonl")
    with pytest.raises((DataError, NotADirectoryError), match=r"Cannot write|Not a directory"):
        journalled_answers(Counting(), shard, SAMPLING, on_progress=lambda *_: None)
