"""The forms in which hosts give log-probabilities; the requests themselves are tested by `serving/test_probing.py`."""

import pytest

from policy_patch.answers.endpoint import OpenAIEndpoint
from policy_patch.answers.next_tokens import next_tokens, seen_in, served_models
from policy_patch.errors import EndpointError

CONTENT = {
    "token": " a", "logprob": -0.1, "bytes": [32, 97],
    "top_logprobs": [{"token": "b", "logprob": -3.0}, {"token": " a", "logprob": -0.1}],
}  # fmt: skip


@pytest.mark.parametrize(
    "choice",
    [
        {"text": " a", "logprobs": {"tokens": [" a"], "top_logprobs": [{"b": -3.0, " a": -0.1}]}},
        {"text": " a", "logprobs": {"content": [CONTENT]}},
        {"message": {"content": " a"}, "logprobs": {"content": [CONTENT]}},
    ],
)
def test_each_form_gives_the_tokens_from_the_likeliest_on(choice):
    assert seen_in(choice).tokens == ((" a", -0.1), ("b", -3.0))


@pytest.mark.parametrize("choice", [{"text": " a", "logprobs": None}, {"message": {"content": " a"}}])
def test_without_log_probabilities_there_is_the_chosen_token(choice):
    assert (seen_in(choice).tokens, seen_in(choice).greedy) == ((), " a")


def test_at_most_ten_tokens_are_kept():
    assert len(seen_in({"text": "", "logprobs": {"top_logprobs": [{str(n): -n for n in range(20)}]}}).tokens) == 10


@pytest.mark.parametrize("choice", [{"text": "a", "logprobs": {"content": [3]}}, {"logprobs": None}, {"message": None}])
def test_another_form_is_an_error(choice):
    with pytest.raises((TypeError, ValueError, AttributeError, LookupError)):
        seen_in(choice)


def test_an_address_without_a_server_is_told():
    endpoint = OpenAIEndpoint("m", "http://127.0.0.1:9/v1", max_retries=0)
    with pytest.raises(EndpointError, match="cannot be reached"):
        next_tokens(endpoint, ["x"])
    with pytest.raises(EndpointError, match="cannot be reached"):
        served_models(endpoint)
