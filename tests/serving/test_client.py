"""Tests of the client: the same greedy text as `PolicyPatchModel`, with patches, stacks and none."""

import asyncio

import openai
import pytest

from policy_patch.errors import BaseMismatchError, PatchNameError, ServingError
from policy_patch.serving import PromptEmbedsClient

STACKS = ([], ["tox"], ["bias"], ["harm"], ["tox", "bias"], ["bias", "tox"])
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def client(lab):
    with openai.OpenAI(base_url=lab.url, api_key="k", max_retries=0) as own:
        yield PromptEmbedsClient(own, lab.specs, model="base")


def test_completions_are_those_of_the_patched_model(client, expected):
    answers = [
        client.completions.create(prompt="Hello", patches=names, max_tokens=6, temperature=0).choices[0].text
        for names in STACKS
    ]
    assert answers == [expected(names, "Hello") for names in STACKS]
    assert len(set(answers)) == len(STACKS)  # each patch and each order counts


def test_chats_are_those_of_the_patched_model(client, expected):
    answers = [
        client.chat.completions.create(messages=MESSAGES, patches=names, max_tokens=6, temperature=0)
        .choices[0]
        .message.content
        for names in STACKS
    ]
    assert answers == [expected(names, messages=MESSAGES) for names in STACKS]
    assert len(set(answers)) == len(STACKS)


def test_many_prompts_ids_and_fields_of_vllm_go_through(client, lab, expected):
    ids = lab.tokenizer("Hello")["input_ids"]
    prompts = ["Hello", "What"]
    answer = client.completions.create(
        prompt=prompts, patches=["tox"], max_tokens=6, temperature=0, extra_body={"top_k": 5}
    )
    assert [one.text for one in answer.choices] == [expected(["tox"], prompt) for prompt in prompts]
    sent = lab.engine.seen[-1][0]
    assert sent["prompt"] is None and sent["top_k"] == 5 and len(sent["prompt_embeds"]) == 2
    by_ids = client.completions.create(prompt=ids, patches=["tox"], max_tokens=6, temperature=0)
    assert by_ids.choices[0].text == expected(["tox"], "Hello")


def test_an_async_client_gives_something_to_await(lab, expected):
    async def answer():
        async with openai.AsyncOpenAI(base_url=lab.url, api_key="k", max_retries=0) as own:
            client = PromptEmbedsClient(own, lab.specs[:1], model="base")
            return await client.completions.create(prompt="Hello", patches=["tox"], max_tokens=6, temperature=0)

    assert asyncio.run(answer()).choices[0].text == expected(["tox"], "Hello")


def test_the_engine_is_checked(client):
    found = client.check()
    assert found["ids and embeddings"] < 1e-4 and found["tox in chat"] < 1e-4 and found["tox and no patch"] > 0.1
    assert set(client.check(["tox", "bias"], chat=False)) == {"ids and embeddings", "tox+bias and no patch"}


def test_unknown_patches_and_fields_that_could_move_the_patch_are_refused(client, lab):
    seen = len(lab.engine.seen)
    with pytest.raises(PatchNameError, match=r"no patch `toxx`\. Did you mean `tox`"):
        client.completions.create(prompt="x", patches=["toxx"])
    with pytest.raises(PatchNameError, match="expected each name once"):
        client.completions.create(prompt="x", patches=["tox", "tox"])
    with pytest.raises(ServingError, match="`echo` cannot be given"):
        client.completions.create(prompt="x", patches=["tox"], echo=True)
    with pytest.raises(ServingError, match="`truncate_prompt_tokens` cannot be given"):
        client.completions.create(prompt="x", patches=["tox"], extra_body={"truncate_prompt_tokens": 4})
    with pytest.raises(TypeError, match="patches"):
        client.completions.create(prompt="x")  # nobody forgets the patch
    assert len(lab.engine.seen) == seen


def test_a_patch_of_another_base_is_refused(lab):
    with openai.OpenAI(base_url=lab.url, api_key="k") as own, pytest.raises(BaseMismatchError, match="takes 128"):
        PromptEmbedsClient(own, lab.specs[:1], base="lab:base")


def test_prompts_that_would_fill_the_memory_are_refused(client, monkeypatch):
    monkeypatch.setattr("policy_patch.serving.patched_requests.MOST_TOKENS", 300)
    with pytest.raises(ServingError, match="have 400 tokens; expected at most 300"):
        client.completions.create(prompt=["x" * 199] * 2, patches=["tox"])
