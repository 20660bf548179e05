"""Requests take turns at replicas; a dead one is left out, and a refusal is not sent to another."""

import asyncio
from types import SimpleNamespace

import httpx
import openai
import pytest

from policy_patch.answers import replicas
from policy_patch.answers.replicas import AbortedAnswerError, Replicas, check_whole

REQUEST = httpx.Request("POST", "http://host/v1")


def failure(status):
    if status == "abort":
        return AbortedAnswerError("broken off")
    if status is None:
        return openai.APIConnectionError(request=REQUEST)
    kind = openai.InternalServerError if status >= 500 else openai.APIStatusError
    return kind("no", response=httpx.Response(status, request=REQUEST), body=None)


def asked(clients, dead, times, *, status=None, max_retries=0, until=99):
    """Return which clients answered, and how often each one was asked."""
    tries = dict.fromkeys(clients, 0)

    async def request(client):
        tries[client] += 1
        if client in dead and tries[client] < until:
            raise failure(status)
        return client

    async def run():
        found = Replicas(clients, max_retries)
        return [await found.ask(request) for _ in range(times)]

    return asyncio.run(run()), tries


def test_they_take_turns():
    answered, _ = asked(["a", "b", "c"], set(), 6)
    assert sorted(answered[:3]) == sorted(answered[3:]) == ["a", "b", "c"]


@pytest.mark.parametrize("status", [None, "abort", 408, 429, 500, 503])
def test_a_replica_that_fails_is_replaced_and_left_out(status):
    answered, tries = asked(["a", "b"], {"b"}, 20, status=status)
    assert answered == ["a"] * 20 and tries["b"] <= 2


def test_a_replica_that_comes_back_is_asked_again(monkeypatch):
    monkeypatch.setattr(replicas, "_PAUSE", 0.0)
    answered, _ = asked(["a", "b"], {"b"}, 20, until=3)
    assert "b" in answered


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_is_final(status):
    with pytest.raises(openai.APIStatusError):
        asked(["a", "b"], {"a", "b"}, 1, status=status, max_retries=3)


def test_if_all_fail_they_are_asked_again_and_then_it_is_an_error(monkeypatch):
    async def no_pause(seconds):
        pauses.append(seconds)

    pauses = []
    monkeypatch.setattr(replicas.asyncio, "sleep", no_pause)
    assert asked(["a", "b"], {"a", "b"}, 1, max_retries=3, until=3)[1] in ({"a": 2, "b": 3}, {"a": 3, "b": 2})
    assert pauses == [0.5, 1.0]
    with pytest.raises(openai.APIConnectionError):
        asked(["a", "b"], {"a", "b"}, 1, max_retries=2)


def test_an_answer_that_was_broken_off_is_no_answer():
    check_whole([SimpleNamespace(finish_reason="stop"), SimpleNamespace(finish_reason="length"), SimpleNamespace()])
    with pytest.raises(AbortedAnswerError):
        check_whole([SimpleNamespace(finish_reason="stop"), SimpleNamespace(finish_reason="abort")])
