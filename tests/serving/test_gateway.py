"""Tests of the gateway: the same greedy text as `PolicyPatchModel`, by model name, and nothing that is not allowed."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from policy_patch.errors import ConfigError, PatchConflictError, PatchNameError
from policy_patch.serving.gateway import _base_in_words, _refused, gateway_app
from policy_patch.serving.gateway_setup import GatewaySettings, open_gateway
from tests.listening import listening
from tests.serving.fake_vllm import serving

MESSAGES = [{"role": "user", "content": "Who are you?"}]
MODELS = {
    "base": [], "base+tox": ["tox"], "base+bias@v1.1.0": ["bias"], "base+harm": ["harm"],
    "base+tox+bias": ["tox", "bias"], "base+bias+tox": ["bias", "tox"],
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(lab):
    settings = GatewaySettings(
        upstreams=[lab.url], patches=lab.specs, base=str(lab.base), allow_base=True, most_bytes=20_000
    )
    opened, _ = open_gateway(settings)
    with serving(gateway_app(opened)) as url:
        yield url


@pytest.fixture(scope="module")
def client(gateway):
    with openai.OpenAI(base_url=gateway, api_key="key-of-a-client", max_retries=0) as own:
        yield own


def completed(client, model, prompt="Hello"):
    return client.completions.create(model=model, prompt=prompt, max_tokens=6, temperature=0)


def test_each_model_answers_as_the_patched_model_does(client, expected):
    texts = [completed(client, model).choices[0].text for model in MODELS]
    assert texts == [expected(names, "Hello") for names in MODELS.values()]
    chats = [
        client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=6, temperature=0) for model in MODELS
    ]
    assert [one.choices[0].message.content for one in chats] == [
        expected(names, messages=MESSAGES) for names in MODELS.values()
    ]
    assert len(set(texts)) == len(MODELS)


def test_mixed_requests_at_the_same_time_get_each_their_own_patch(client, expected):
    asked = list(MODELS) * 3
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda model: completed(client, model).choices[0].text, asked))
    assert texts == [expected(MODELS[model], "Hello") for model in asked]


def test_every_answer_names_patch_version_and_commit(client):
    raw = client.completions.with_raw_response.create(model="base+tox+bias", prompt="x", max_tokens=1)
    header = raw.headers["x-policy-patch"]
    told = raw.parse()
    assert header.startswith("tox@v1.0.0 sha256=") and "; bias@v1.1.0 sha256=" in header
    assert told.model == "base+tox+bias"
    assert [(one["name"], one["version"], one["commit"]) for one in told.policy_patch] == [
        ("tox", "1.0.0", None), ("bias", "1.1.0", None),
    ]  # fmt: skip
    base = {"id": "base", "commit": None}  # the last part of a folder, not its path
    assert told.policy_patch_base == base and raw.headers["x-policy-patch-base"] == "base"
    assert {json.dumps(one.policy_patch_base) for one in client.models.list()} == {json.dumps(base)}
    raw = client.completions.with_raw_response.create(model="base", prompt="x", max_tokens=1)
    assert raw.headers["x-policy-patch"] == "none"


def test_the_commit_of_the_base_is_in_the_header():
    assert _base_in_words({"id": "org/b\u00e4se", "commit": "c" * 40}) == f"org/b\\xe4se commit={'c' * 40}"


def test_a_stream_goes_through_byte_by_byte(gateway, expected):
    body = {"model": "base+tox", "prompt": "Hello", "max_tokens": 6, "temperature": 0, "stream": True}
    answer = httpx2.post(f"{gateway}/completions", json=body, trust_env=False)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-policy-patch"].startswith("tox@v1.0.0")
    piece = json.dumps({"model": "base", "piece": expected(["tox"], "Hello")})
    assert answer.text == f"data: {piece}\n\ndata: [DONE]\n\n"


def test_log_lines_name_the_patch_and_neither_key_nor_text(client):
    with listening("policy_patch.serving.gateway", 20) as lines:
        completed(client, "base+tox", "A secret text")
    [line] = lines
    told = json.loads(line.removeprefix("INFO: "))
    assert told["patches"][0]["name"] == "tox" and told["patches"][0]["version"] == "1.0.0" and told["status"] == 200
    assert told["base"] == {"id": "base", "commit": None}
    assert "key-of-a-client" not in line and "secret" not in line


def test_the_key_goes_on_to_the_engine(client, lab):
    completed(client, "base+tox")
    body, headers = lab.engine.seen[-1]
    assert headers["authorization"] == "Bearer key-of-a-client" and body["model"] == "base"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("completions", {"model": "base+toxx", "prompt": "x"}, 404, "Did you mean `base+tox`"),
        ("completions", {"prompt": "x"}, 404, "no model"),
        ("completions", {"model": "base+tox", "prompt": ""}, 200, None),
        ("completions", {"model": "base+tox", "prompt": []}, 400, "`prompt` has to be"),
        ("completions", {"model": "base+tox", "prompt": [[]]}, 400, "`prompt` has to be"),
        ("completions", {"model": "base+tox", "prompt": ["x"] * 65}, 400, "1 to 64"),
        ("completions", {"model": "base+tox", "prompt": "x" * 253}, 400, "254 tokens and 3 vectors; the base has 256"),
        ("completions", {"model": "base+tox", "prompt": [99999]}, 400, "has no embedding"),
        ("completions", {"model": "base+tox", "prompt": "x", "prompt_embeds": "y"}, 400, "added by the server alone"),
        ("completions", {"model": "base", "prompt": "x", "prompt_embeds": "y"}, 400, "added by the server alone"),
        ("chat/completions", {"model": "base+tox", "messages": []}, 400, "at least one message"),
        ("chat/completions", {"model": "base+tox", "messages": [3]}, 400, "at least one message"),
        (
            "chat/completions",
            {"model": "base", "messages": [{"role": "user", "content": [{"type": "prompt_embeds", "data": "x"}]}]},
            400, "A part of the type `prompt_embeds`",
        ),
        ("completions", {"model": "base+tox", "prompt": "x" * 30_000}, 413, "more than 20,000 bytes"),
        ("completions", [1], 400, "no JSON object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_and_never_reaches_the_engine(gateway, lab, path, body, status, message):
    seen = len(lab.engine.seen)
    answer = httpx2.post(f"{gateway}/{path}", json=body, trust_env=False)
    assert answer.status_code == status, answer.text
    if message:
        assert message in answer.json()["error"]["message"]
        assert len(lab.engine.seen) == seen


def test_a_body_that_is_no_json_or_has_a_key_twice_is_refused(gateway):
    for content in (b"{", b"\xff", b'{"model": "base", "model": "base+tox", "prompt": "x"}'):
        assert httpx2.post(f"{gateway}/completions", content=content, trust_env=False).status_code == 400


def test_models_and_health(gateway):
    listed = httpx2.get(f"{gateway}/models", trust_env=False).json()["data"]
    assert {"base", "base+tox", "base+tox@v1.0.0"} <= {one["id"] for one in listed}
    health = httpx2.get(gateway.removesuffix("/v1") + "/health", trust_env=False)
    assert health.status_code == 200 and list(health.json()["engines"].values()) == [True]


def test_a_stack_that_is_refused_is_a_conflict_and_an_unknown_patch_is_not_found():
    answers = [_refused(error("why")) for error in (PatchConflictError, PatchNameError, ConfigError)]
    assert [one.status_code for one in answers] == [409, 404, 400]
    assert json.loads(answers[0].body)["error"]["message"] == "why"
