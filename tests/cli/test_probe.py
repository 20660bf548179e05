"""`policy-patch probe` says what a server has, with an exit code, and goes on saying it."""

import json

import pytest

from policy_patch.answers.served_probe import record_probe
from policy_patch.cli import main
from tests.serving.conftest import patched_model
from tests.serving.fake_server import FakeServer, serving


@pytest.fixture(scope="module")
def patched(tokenizer):
    return patched_model(tokenizer)


@pytest.fixture
def server(patched, tokenizer):
    with serving(FakeServer(patched, tokenizer, [("tox",)])) as server:
        yield server


@pytest.fixture(scope="module")
def folder(patched, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    record_probe(patched, tokenizer, folder)
    return str(folder)


def test_the_verdict_goes_to_stdout_and_the_exit_code(server, folder, capsys):
    assert main(["probe", server.url, "--patch", folder]) == 0
    out, err = capsys.readouterr()
    assert out == "active\n" and "The server has tox 1.0.0. Off by 0.000 nats" in err
    server.stacks = ["__base__"]
    assert main(["probe", server.url, "--patch", folder, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "absent" and found["addresses"][server.url]["answers"] == {
        "the base without a patch": 20
    }


def test_bad_usage_and_dead_servers_exit_with_2(server, folder, tmp_path, capsys):
    assert main(["probe", server.url, "--patch", str(tmp_path)]) == 2
    assert main(["probe", "http://127.0.0.1:9/v1", "--patch", folder, "--model", "m"]) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert main(["probe", server.url, "--patch", folder, "--bits", "3"]) == 2
    assert main(["probe", server.url, "--patch", folder, "--watch", "-1"]) == 2


def test_fields_of_a_request_are_given_as_json(server, folder):
    words = ["probe", server.url, "--patch", folder, "--extra_body", '{"chat_template_kwargs": {"patch": "off"}}']
    assert main(words) == 1
    assert server.requests[-1][1]["chat_template_kwargs"] == {"patch": "off"}


def test_a_watch_prints_a_line_each_time_until_it_is_stopped(server, folder, capsys, monkeypatch):
    pauses = []

    def stop_at_second(seconds):
        pauses.append(seconds)
        server.stacks = ["__base__"]
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("policy_patch.serving.probing.time.sleep", stop_at_second)
    assert main(["probe", server.url, "--patch", folder, "--watch", "5", "--json"]) == 130
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "policy-patch: Stopped, the last verdict was: absent."
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["verdict"] for line in lines] == ["active", "absent"] and lines[0]["time"].endswith("+00:00")
