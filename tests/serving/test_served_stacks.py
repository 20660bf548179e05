"""Tests of how a study finds its stacks at a gateway: by the patches' hashes, at every address, or not at all."""

import openai
import pytest

from policy_patch.errors import EndpointError, ServingError
from policy_patch.hub.named_patch import load_named_patch
from policy_patch.serving.gateway import gateway_app
from policy_patch.serving.gateway_setup import GatewaySettings, open_gateway
from policy_patch.serving.served_stacks import served_stacks
from tests.serving.conftest import NAMES
from tests.serving.fake_vllm import serving

STACKS = {"one": ["one"], "two": ["two"], "one + two": ["one", "two"], "two + one": ["two", "one"]}


@pytest.fixture(scope="module")
def gateway_of(lab):
    """Return a function that makes the ASGI application of a gateway with these patches."""

    def make(specs):
        settings = GatewaySettings(upstreams=[lab.url], patches=specs, base=str(lab.base), allow_base=True)
        return gateway_app(open_gateway(settings)[0])

    return make


@pytest.fixture(scope="module")
def gateway(lab, gateway_of):
    with serving(gateway_of(lab.specs)) as url:
        yield url


@pytest.fixture(scope="module")
def hashes(lab):
    """Hashes of the first two patches, under other names than at the gateway."""
    tox, bias = (load_named_patch(lab.folder / name).sha256 for name in NAMES[:2])
    return {"one": tox, "two": bias}


def test_every_stack_is_found_and_answers_as_the_patched_model_does(gateway, hashes, expected):
    found = served_stacks(f"openai:base@{gateway}", hashes, STACKS)
    assert {stack: one.model for stack, one in found.items()} == {
        "one": "base+tox@v1.0.0", "two": "base+bias@v1.1.0", "one + two": "base+tox@v1.0.0+bias@v1.1.0",
        "two + one": "base+bias@v1.1.0+tox@v1.0.0",
    }  # fmt: skip
    names, texts = {"one": "tox", "two": "bias"}, []
    with openai.OpenAI(base_url=gateway, api_key="none", max_retries=0) as own:
        for stack, endpoint in found.items():
            texts.append(own.completions.create(model=endpoint.model, prompt="Hello", max_tokens=6).choices[0].text)
            assert texts[-1] == expected([names[one] for one in STACKS[stack]], "Hello")
    assert len(set(texts)) == len(STACKS), "control: the stacks answer otherwise"


def test_chat_and_several_addresses_are_passed_on(gateway, hashes):
    found = served_stacks(f"chat:base@{gateway},{gateway}", hashes, {"one": ["one"]})["one"]
    assert found.chat and found.base_urls == (gateway, gateway)


def test_a_patch_that_is_not_served_is_refused_at_any_address(lab, gateway, gateway_of, hashes):
    with pytest.raises(ServingError, match=r"does not serve the patch `new` \(sha256 abcabcabcabc.*base\+tox@v1\.0\.0"):
        served_stacks(f"openai:base@{gateway}", {**hashes, "new": "abc" * 20}, STACKS)
    with serving(gateway_of(lab.specs[:1])) as other:
        with pytest.raises(ServingError, match=f"gateway at {other} does not serve the patch `two`"):
            served_stacks(f"openai:base@{gateway},{other}", hashes, STACKS)
        served_stacks(f"openai:base@{gateway},{other}", {"one": hashes["one"]}, {"one": ["one"]})
    renamed = [f"poison={lab.folder / 'tox'}", lab.specs[1]]
    with (
        serving(gateway_of(renamed)) as other,
        pytest.raises(ServingError, match=r"called poison@v1\.0\.0 and tox@v1\.0\.0"),
    ):
        served_stacks(f"openai:base@{gateway},{other}", hashes, STACKS)


def test_a_server_that_names_no_patches_is_refused(lab, gateway, hashes):
    for spec in (f"openai:base@{lab.url}", f"openai:other@{gateway}"):
        with pytest.raises(
            ServingError, match=r"does not say which patches stand behind model names.*one stack at a time"
        ):
            served_stacks(spec, hashes, STACKS)
    with pytest.raises(EndpointError):
        served_stacks("openai:base", hashes, STACKS)
